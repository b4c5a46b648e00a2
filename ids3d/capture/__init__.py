"""From photographs or a video to a scene: pictures chosen, cameras found by structure from motion, lenses undone."""
