"""The commands, one a module, each with a `main(argv) -> exit code`.

Paddle is imported only once the arguments and the recipe are known to be good.
"""
