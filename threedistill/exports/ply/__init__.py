"""PLY: its head and tables, meshes, and 3DGS splats with PlayCanvas' compression of them."""
