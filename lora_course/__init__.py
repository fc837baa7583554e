"""The course behind the notebooks: a room a page (`check`, `lab`, `pictures`), and the tools that pages share."""
