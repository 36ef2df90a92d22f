"""glTF 2.0: its container, its scene, its meshes and its splats, read and written."""
