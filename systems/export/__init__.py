"""What a finished run can be taken away as: a mesh, points, a film, a nerfstudio scene."""
