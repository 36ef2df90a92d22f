"""From an extracted surface to a mesh with coordinates, colours and relief."""
