"""Pictures from run folders and plain arrays; never imports torch."""
