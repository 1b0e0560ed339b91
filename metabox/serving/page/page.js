import { Pad, photograph } from "./pad.js";

const $ = (id) => document.getElementById(id);
const classes = []; // {name, images: [data URL], row}
let limits, pad, task = null, made = 0;

async function call(method, path, content) {
  const options = { method };
  if (content) Object.assign(options, { body: JSON.stringify(content), headers: { "content-type": "application/json" } });
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw Object.assign(new Error("The server does not answer. Is it still running?"), { status: 0 });
  }
  const found = answer.status === 204 ? {} : await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error), { status: answer.status });
  return found;
}

// Runs a function again and again while it is wanted, but never twice at a time.
function latest(run) {
  let busy = false, again = false;
  return async () => {
    again = true;
    if (busy) return;
    busy = true;
    try {
      while (again) {
        again = false;
        await run();
      }
    } catch (error) {
      say(error.message, true);
    } finally {
      busy = false;
    }
  };
}

const taught = () => classes.filter((c) => c.images.length);

const learn = latest(async () => {
  const wanted = taught();
  if (!wanted.length) {
    if (task) await call("DELETE", `tasks/${task}`).catch(() => {});
    task = null;
    return ask();
  }
  const content = { examples: Object.fromEntries(wanted.map((c) => [c.name, c.images])) };
  try {
    if (task) await call("PUT", `tasks/${task}`, content);
  } catch (error) {
    if (error.status !== 404) throw error;
    task = null; // forgotten by the server: teach it again
  }
  if (!task) task = (await call("POST", "tasks", content)).id;
  ask();
});

let done = true; // whether the drawing has come to rest

const ask = latest(async () => {
  const image = pad.image();
  if (!image || !task) return show(null);
  try {
    show((await call("POST", `tasks/${task}/predict`, { queries: [image] })).predictions[0]);
  } catch (error) {
    if (error.status !== 404) throw error;
    task = null;
    learn();
  }
});

function show(prediction) {
  const known = taught();
  for (const c of classes) {
    const p = (!pad.empty && prediction?.probabilities[c.name]) || 0;
    c.row.classList.toggle("best", !pad.empty && known.length > 1 && prediction?.class === c.name);
    c.row.querySelector(".fill").style.width = `${100 * p}%`;
    c.row.querySelector(".share").textContent = prediction && !pad.empty && c.images.length ? percent(p) : "";
    const bar = c.row.querySelector(".bar");
    bar.setAttribute("aria-valuenow", Math.round(100 * p));
    bar.setAttribute("aria-valuetext", percent(p));
  }
  if (!done) return; // a screen reader would speak at every movement
  if (!known.length) say(pad.empty ? `${verb()} something, then say what it is.` : "Say what it is: add a class for it.");
  else if (known.length === 1) say(`Now teach it a second class: ${verb().toLowerCase()} another one.`);
  else if (pad.empty || !prediction) say(`${verb()} one of them, and watch.`);
  else say(`“${prediction.class}”, ${percent(prediction.probability)} sure. Wrong? Teach it.`);
}

const percent = (p) => `${p > 0 && p < 0.005 ? "<1" : Math.round(100 * p)} %`;
const verb = () => (pad.ink ? "Draw" : "Show");

let warned = false; // a warning stays until the next act of the person, whatever answer comes late

function say(text, wrong = false) {
  if (warned && !wrong) return;
  warned = wrong;
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

function addClass() {
  if (classes.length >= limits.classes) return say(`This model tells at most ${limits.classes} classes apart.`, true);
  const row = $("row").content.firstElementChild.cloneNode(true);
  const c = { name: freeName(), images: [], row };
  const input = row.querySelector(".name");
  input.addEventListener("change", () => rename(c, input));
  input.addEventListener("focus", () => input.select());
  input.addEventListener("keydown", (event) => event.key === "Enter" && input.blur());
  row.querySelector(".teach").addEventListener("click", () => teach(c));
  row.querySelector(".files").addEventListener("change", (event) => addFiles(c, event.target));
  row.querySelector(".remove").addEventListener("click", () => {
    classes.splice(classes.indexOf(c), 1);
    row.remove();
    learn();
    $("new").focus();
  });
  takeDrops(row, (files) => addAll(c, files));
  classes.push(c);
  $("classes").append(row);
  refresh(c);
  if (!pad.empty) teach(c);
  else show(null);
  input.focus({ preventScroll: false });
}

function freeName() {
  const names = new Set(classes.map((c) => c.name));
  do made += 1; while (names.has(`class ${made}`));
  return `class ${made}`;
}

function rename(c, input) {
  const name = input.value.trim();
  if (!name || classes.some((other) => other !== c && other.name === name)) {
    say(name ? `There is a class “${name}” already.` : "A class needs a name.", true);
    input.value = c.name;
    return;
  }
  c.name = name;
  refresh(c);
  if (c.images.length) learn();
}

function teach(c) {
  const image = pad.image();
  if (!image) return say(`${verb()} something first.`, true);
  addImages(c, [image]);
  pad.clear();
}

function addImages(c, images) {
  const left = limits.examples - classes.reduce((n, other) => n + other.images.length, 0);
  if (images.length > left) say(`At most ${limits.examples} examples fit a task.`, true);
  c.images.push(...images.slice(0, left));
  refresh(c);
  learn();
}

async function addAll(c, files) {
  const images = [];
  for (const file of files) {
    try {
      images.push((await photograph(file)).url);
    } catch {
      say(`“${file.name}” is no image that this browser can read.`, true);
    }
  }
  if (images.length) addImages(c, images);
}

function addFiles(c, input) {
  addAll(c, [...input.files]);
  input.value = ""; // or the same file could not be chosen again
}

function refresh(c) {
  const { row, name } = c;
  row.querySelector(".name").value = name;
  row.querySelector(".name").setAttribute("aria-label", `Name of ${name}`);
  row.querySelector(".bar").setAttribute("aria-label", `Probability of ${name}`);
  row.querySelector(".teach").setAttribute("aria-label", `Teach: this is ${name}`);
  row.querySelector(".files").setAttribute("aria-label", `Add images to ${name}`);
  row.querySelector(".remove").setAttribute("aria-label", `Remove ${name}`);
  row.querySelector(".examples").replaceChildren(
    ...c.images.map((url, i) => {
      const button = document.createElement("button");
      button.className = "example";
      button.type = "button";
      button.setAttribute("aria-label", `Remove example ${i + 1} of ${name}`);
      const image = document.createElement("img");
      image.src = url;
      image.alt = "";
      button.append(image);
      button.addEventListener("click", () => {
        c.images.splice(i, 1);
        refresh(c);
        learn();
      });
      return button;
    }),
  );
}

async function open(files) {
  if (!files.length) return;
  try {
    pad.show(await photograph(files[0]));
  } catch {
    say(`“${files[0].name}” is no image that this browser can read.`, true);
  }
}

function takeDrops(element, take) {
  element.addEventListener("dragover", (event) => {
    event.preventDefault();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
}

function changed(rest) {
  done = rest;
  $("invitation").classList.toggle("gone", !pad.empty);
  $("undo").disabled = $("clear").disabled = pad.empty;
  $("new").textContent = pad.empty ? "New class" : "This is a new class";
  for (const { row } of classes) row.querySelector(".teach").disabled = pad.empty;
  ask();
}

function play(about) {
  $("play").hidden = false;
  $("pad-title").textContent = about.ink ? "Draw" : "Show";
  $("invitation").textContent = about.ink ? "Draw here" : "Drop, paste or open a photograph";
  $("pad").setAttribute("aria-label", about.ink ? "Drawing area; an image can be opened or pasted too" : "Photograph");
  $("frame").classList.add(about.ink ?? "photographs");
  pad = new Pad($("pad"), about.ink, changed);
  $("undo").hidden = !about.ink;
  $("undo").addEventListener("click", () => pad.undo());
  $("clear").addEventListener("click", () => pad.clear());
  $("new").addEventListener("click", addClass);
  $("file").addEventListener("change", (event) => {
    open([...event.target.files]);
    event.target.value = "";
  });
  takeDrops($("frame"), open);
  document.addEventListener("paste", (event) => open([...event.clipboardData.files]));
  for (const name of ["pointerdown", "keydown", "drop", "paste"]) {
    document.addEventListener(name, () => (warned = false), { capture: true });
  }
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  window.addEventListener("pagehide", () => task && fetch(`tasks/${task}`, { method: "DELETE", keepalive: true }));
  window.addEventListener("pageshow", (event) => event.persisted && learn());
  changed(true);
}

function numbers(about) {
  $("numbers").hidden = false;
  const x = JSON.stringify(zeros(about.x_shape));
  const examples = about.outputs === "classes" ? `{"examples": {"a": [${x}], "b": [${x}]}}` : `{"x": [${x}], "y": [0]}`;
  const send = `curl -H 'content-type: application/json' ${location.origin}`;
  $("example").textContent = `${send}/tasks -d '${examples}'\n${send}/tasks/ID/predict -d '{"queries": [${x}]}'`;
}

const zeros = ([n, ...rest]) => (n === undefined ? 0 : Array.from({ length: Math.min(n, 64) }, () => zeros(rest)));

try {
  const about = await call("GET", "model");
  limits = about.limits;
  $("model").textContent = about.name || about.learner;
  document.title = `${about.name || about.learner} · metabox`;
  (about.inputs === "images" && about.outputs === "classes" ? play : numbers)(about);
} catch (error) {
  $("model").textContent = error.message;
}
