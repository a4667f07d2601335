"""Recording games and rendering GIF, WebP and MP4 videos."""
