"""What papers report of finished assets: figures by name, from one fixed ring of pictures."""
