"""Where images come from: folders and betons behind one protocol."""
