"""What makes the course fast and safe, below the code that teaches:
kernels, checkpoints, several devices, compiling.
"""
