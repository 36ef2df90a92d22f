"""Wavefront OBJ and its material files, read and written."""
