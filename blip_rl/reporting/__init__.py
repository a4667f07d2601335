"""Report pages, figures and inspection of run folders; never imports torch."""
