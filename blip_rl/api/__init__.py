"""What Python users call, and what the commands of ``blip-rl`` call: training, evaluation, reports and videos.

Arguments are checked here, before heavy libraries load; ``blip_rl`` itself offers the functions by name.
"""
