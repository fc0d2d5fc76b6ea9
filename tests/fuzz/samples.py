"""Small valid scans of every format, made by code: a sample is its files by name, the scan's own first."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import SimpleITK

Sample = dict[str, bytes]
SHAPE = (5, 6, 7)  # D, H, W
SLICES = 6


def nifti(rng: np.random.Generator) -> Sample:
    """One or two channels, plain or gzipped, NIfTI 1 or 2, any type, either byte order, oblique."""
    dtype = np.dtype(rng.choice(["u1", "i2", "u2", "i4", "f4", "f8"])).newbyteorder(str(rng.choice(["<", ">"])))
    kind = nibabel.Nifti1Image if rng.random() < 0.7 else nibabel.Nifti2Image
    shape = (*SHAPE[::-1], 2) if rng.random() < 0.3 else SHAPE[::-1]
    header = kind.header_class(endianness=">" if dtype.str.startswith(">") else "<")
    header.set_data_dtype(dtype)
    image = kind(rng.integers(0, 100, shape).astype(dtype), _affine(), header)
    image.header.set_xyzt_units("mm")
    image.set_qform(_affine(), code=1)
    plain = image.to_bytes()
    return {"a.nii.gz": gzip.compress(plain, mtime=0)} if rng.random() < 0.6 else {"a.nii": plain}


def metaimage(rng: np.random.Generator) -> Sample:
    """One file or two, plain or deflated."""
    return _itk(rng, str(rng.choice(["a.mha", "a.mhd"])))


def nrrd(rng: np.random.Generator) -> Sample:
    """One file or two, plain or gzipped."""
    return _itk(rng, str(rng.choice(["a.nrrd", "a.nhdr"])))


def dicom(rng: np.random.Generator) -> Sample:
    """A folder of slices, plain or compressed."""
    compressor = str(rng.choice(["", "", "JPEG", "JPEG2000"]))
    plane = (33, 34) if compressor == "JPEG2000" else SHAPE[1:]  # which compresses no smaller ones
    volume = rng.integers(0, 1000, (SLICES, *plane)).astype(np.int16)
    return {f"s/{index}.dcm": dicom_slice(volume[index], index, compressor=compressor) for index in range(SLICES)}


def dicom_slice(pixels_hw: np.ndarray, index: int, *, compressor: str = "", **changes: str) -> bytes:
    """A slice at ``index`` times 2 mm; changes are by tag, ``t00200013="7"``."""
    image = SimpleITK.GetImageFromArray(pixels_hw[None])
    image.SetSpacing((0.5, 0.75, 2.0))
    tags = {"0008|0060": "CT", "0020|000e": "1.2.3", "0020|000d": "1.2.4", "0008|0018": f"1.2.5.{index + 1}"}
    tags |= {"0020|0032": f"10\\20\\{2 * index}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(index + 1)}
    tags |= {f"{tag[1:5]}|{tag[5:]}": value for tag, value in changes.items()}
    for tag, value in tags.items():
        image.SetMetaData(tag, value)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    if compressor:
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
    with TemporaryDirectory() as folder:
        writer.SetFileName(f"{folder}/a.dcm")
        writer.Execute(image)
        return Path(folder, "a.dcm").read_bytes()


def _itk(rng: np.random.Generator, name: str) -> Sample:
    many = rng.random() < 0.3
    dtype = str(rng.choice(["u1", "i2", "u2", "i4", "f4", "f8"]))
    image = SimpleITK.GetImageFromArray(rng.integers(0, 100, (*SHAPE, *[2] * many)).astype(dtype), isVector=many)
    affine = _affine()[:3, :3]
    spacing = np.linalg.norm(affine, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine / spacing).ravel().tolist())
    image.SetOrigin((-30.0, 12.5, 7.0))
    with TemporaryDirectory() as folder:
        SimpleITK.WriteImage(image, f"{folder}/{name}", useCompression=bool(rng.random() < 0.6))
        files = sorted(Path(folder).iterdir(), key=lambda path: path.name != name)
        return {path.name: path.read_bytes() for path in files}


def _affine() -> np.ndarray:
    cosine, sine = np.cos(0.3), np.sin(0.3)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) * (0.5, 0.75, 2.0)
    affine[:3, 3] = (-30.0, 12.5, 7.0)
    return affine


SAMPLES: dict[str, Callable[[np.random.Generator], Sample]] = {
    "nifti": nifti,
    "metaimage": metaimage,
    "nrrd": nrrd,
    "dicom": dicom,
}


def gunzipped(data: bytes) -> bytes:
    """The bytes of a gzip file."""
    return gzip.GzipFile(fileobj=io.BytesIO(data)).read()
