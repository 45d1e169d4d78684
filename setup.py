"""Packaging. Settings of tools (ruff, mypy, pytest) live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "passl_simsiam/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)
ONNX = ["paddle2onnx>=2.1", "onnxruntime>=1.20"]
TEST = ["pytest>=8", "pytest-timeout>=2", "hypothesis>=6", "Pillow>=10", *ONNX]

setup(
    name="passl_simsiam",
    version=VERSION,
    description="Train, check, trust and hand on a SimSiam representation, on PaddlePaddle",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["passl_simsiam", "passl_simsiam.*"]),
    package_data={"passl_simsiam.zoo": ["models.yaml"]},
    python_requires=">=3.10",
    install_requires=[
        "numpy>=1.26",
        "pyyaml>=6",
        "pydantic>=2.7",
        # opencv-python needs libGL, which servers lack; the two provide the same module.
        "opencv-python-headless>=4.11",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
        "safetensors>=0.4",
        "rich>=13",
        "visualdl>=2.5.3",
    ],
    extras_require={
        "cpu": ["paddlepaddle>=3"],
        # From PyPI this is an old 2.x build; README says where the 3.x ones come from.
        "gpu": ["paddlepaddle-gpu"],
        # A faster JPEG decoder with the same pixels; used when it is there.
        "fast": ["simplejpeg>=1.9"],
        # Proofs of conversion in which torch itself runs the other side; conversion works without it.
        "torch": ["torch>=2"],
        # Export to ONNX, and its check.
        "onnx": ONNX,
        "test": TEST,
        "dev": [*TEST, "ruff>=0.6", "mypy>=1.10", "types-PyYAML"],
    },
    entry_points={
        "console_scripts": [
            "passl-train=passl_simsiam.commands.train:main",
            "passl-eval=passl_simsiam.commands.evaluate:main",
            "passl-extract=passl_simsiam.commands.extract:main",
            "passl-predict=passl_simsiam.commands.predict:main",
            "passl-export=passl_simsiam.commands.export:main",
            "passl-convert=passl_simsiam.commands.convert:main",
            "passl-download=passl_simsiam.commands.download:main",
            "passl-doctor=passl_simsiam.commands.doctor:main",
            "passl-pack=passl_simsiam.commands.pack:main",
        ]
    },
)
