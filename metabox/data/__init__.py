"""Reading data: folders, files, images, packs, augmentation. Task distributions are in `tasks`."""
