// The pad: strokes by mouse, pen or finger, or one photograph. What is seen is what is sent.

const SENT = 112; // pixels of a drawing, which the model sees smaller still
const LONGEST = 512; // side of a photograph
const WIDTH = 0.06; // of a stroke, as a share of the pad

export class Pad {
  constructor(canvas, ink, changed) {
    this.canvas = canvas;
    this.ink = ink; // "dark", "light", or null if the model was trained on no drawings
    this.changed = changed;
    this.strokes = [];
    this.photograph = null;
    if (ink) this.listen();
    this.paint();
  }

  get empty() {
    return !this.strokes.length && !this.photograph;
  }

  listen() {
    const { canvas } = this;
    let pen = null;
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (pen !== null || event.button) return;
      event.preventDefault();
      pen = event.pointerId;
      canvas.setPointerCapture(pen);
      this.photograph = null;
      this.strokes.push([point(event)]);
      this.update(false);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== pen) return;
      const moves = event.getCoalescedEvents?.() ?? [];
      for (const move of moves.length ? moves : [event]) this.strokes.at(-1)?.push(point(move));
      this.update(false);
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(name, (event) => {
        if (event.pointerId !== pen) return;
        pen = null;
        this.update(true);
      });
    }
  }

  undo() {
    if (this.photograph) this.photograph = null;
    else this.strokes.pop();
    this.update(true);
  }

  clear() {
    this.strokes = [];
    this.photograph = null;
    this.update(true);
  }

  show(photograph) {
    this.strokes = [];
    this.photograph = photograph;
    this.update(true);
  }

  update(done) {
    this.paint();
    this.changed(done);
  }

  // The image as a data URL, or null.
  image() {
    if (this.photograph) return this.photograph.url;
    if (!this.strokes.length) return null;
    const small = document.createElement("canvas");
    small.width = small.height = SENT;
    draw(small, this.strokes, this.ink);
    return small.toDataURL("image/png");
  }

  paint() {
    draw(this.canvas, this.strokes, this.ink);
    if (!this.photograph) return;
    const { canvas } = this;
    const { image } = this.photograph;
    const scale = Math.min(canvas.width / image.width, canvas.height / image.height);
    const [width, height] = [image.width * scale, image.height * scale];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  }
}

function draw(canvas, strokes, ink) {
  const context = canvas.getContext("2d");
  const side = canvas.width;
  context.clearRect(0, 0, side, side);
  if (!ink) return;
  context.fillStyle = ink === "light" ? "#000" : "#fff";
  context.fillRect(0, 0, side, side);
  context.strokeStyle = ink === "light" ? "#fff" : "#000";
  context.lineWidth = WIDTH * side;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(stroke[0][0] * side, stroke[0][1] * side);
    for (const [x, y] of stroke) context.lineTo(x * side, y * side);
    context.stroke();
  }
}

// An image file, made small: {image, url}. It throws if the browser cannot read it.
export async function photograph(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const image = document.createElement("canvas");
  image.width = Math.max(1, Math.round(bitmap.width * scale));
  image.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = image.getContext("2d");
  context.fillStyle = "#fff"; // behind transparent pixels
  context.fillRect(0, 0, image.width, image.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, image.width, image.height);
  return { image, url: image.toDataURL("image/jpeg", 0.92) };
}
