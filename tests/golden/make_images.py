"""Writes the golden images beside this script: small PNG and JPEG files, and what Pillow and transformers make of them.

Made with Python 3.11, Pillow 12.3.0, transformers 5.24.0, numpy 2.4.6, safetensors 0.8.0:
    pip install 'pillow<13' transformers numpy safetensors && python tests/golden/make_images.py [FOLDER]

images/
  NAME.png, NAME.jpg        files; PNG with every colour type, depth, palette, alpha, interlacing; JPEG by Pillow
  NAME.bmp .gif .webp       files; BMP with every depth, masks, run lengths, both directions
  held*.jpg .png .webp      held as EXIF's orientation 1 to 8 says, or XMP's
  decoded.safetensors       NAME [height, width, 3] uint8: Pillow's ImageOps.exif_transpose and convert("RGB"); of
                            one-channel 16-bit PNG, which Pillow clips, the high byte
  resized.safetensors       MODE_HEIGHT_WIDTH uint8: photo.png resized by Pillow, MODE by its number
  processors/NAME/preprocessor_config.json    as transformers writes it, or as checkpoints on the Hub have it
  processed.safetensors     NAME.IMAGE float32 [3, h, w]: pixel_values of transformers' Pillow-based processor, of large
                            ones every seventh row and column
"""
import json
import pathlib
import struct
import sys
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

FOLDER = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "images"
PROCESSORS = {"ViT": ViTImageProcessorPil, "DeiT": DeiTImageProcessorPil, "Bit": BitImageProcessorPil}
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def photo(height, width, seed):
    """Smooth waves, a sharp edge and a little noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    out = np.stack([128 + 120 * np.sin(7 * x + 3 * y + phase) * np.cos((5 + phase) * y) for phase in (0, 1, 2.5)], -1)
    out[height // 3:height // 2, width // 4:width // 2] = (250, 10, 60)
    return np.clip(out + random.normal(0, 6, out.shape), 0, 255).astype(np.uint8)


def png(name, samples, depth, colour, chunks=(), interlaced=False):
    """Writes samples [height, width, channels] as a PNG file."""
    height, width, _ = samples.shape

    def lines(part):
        out = b""
        for row in part:
            if depth == 16:
                packed = row.astype(">u2").tobytes()
            elif depth == 8:
                packed = row.astype(np.uint8).tobytes()
            else:
                bits = "".join(f"{value:0{depth}b}" for value in row.reshape(-1))
                bits += "0" * (-len(bits) % 8)
                packed = bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))
            out += b"\0" + packed
        return out

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    passes = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [samples]
    data = b"".join(lines(part) for part in passes if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    (FOLDER / name).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(*c) for c in chunks)
                                + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b""))


def write_files():
    random = np.random.default_rng(1)
    image = photo(61, 47, 2)
    png("photo.png", image, 8, 2)
    small = photo(13, 11, 3)
    grey = small[..., :1]
    palette = random.integers(0, 256, (16, 3)).astype(np.uint8)
    see_through = random.integers(0, 256, 9).astype(np.uint8).tobytes()
    alpha = random.integers(0, 256, (13, 11, 1))
    for depth in (1, 2, 4):
        png(f"grey{depth}.png", grey >> (8 - depth), depth, 0)
    png("grey8.png", grey, 8, 0, [(b"tRNS", b"\0\x10")])
    wide = grey.astype(np.uint16) * 256 + 77
    png("grey16.png", wide, 16, 0)
    png("grey_alpha.png", np.concatenate([grey, alpha], -1), 8, 4)
    png("grey_alpha16.png", np.concatenate([wide, alpha * 256], -1), 16, 4)
    for depth in (1, 2, 4):
        png(f"palette{depth}.png", grey >> (8 - depth), depth, 3, [(b"PLTE", palette[:1 << depth].tobytes())])
    png("palette8.png", grey % 16, 8, 3, [(b"PLTE", palette.tobytes()), (b"tRNS", see_through)])
    png("rgb.png", small, 8, 2, [(b"gAMA", struct.pack(">I", 220000)), (b"tRNS", b"\0\1\0\2\0\3")])
    png("rgb16.png", small.astype(np.uint16) * 256 + random.integers(0, 256, small.shape), 16, 2)
    png("rgba.png", np.concatenate([small, alpha], -1), 8, 6)
    png("rgba16.png", np.concatenate([small.astype(np.uint16) * 256 + 200, alpha * 256 + 3], -1), 16, 6)
    png("interlaced.png", small, 8, 2, interlaced=True)
    png("interlaced_palette.png", grey >> 4, 4, 3, [(b"PLTE", palette.tobytes())], interlaced=True)
    png("one.png", small[:1, :1], 8, 2)

    def jpeg(name, mode="RGB", **options):
        Image.fromarray(image).convert(mode).save(FOLDER / name, "JPEG", **options)

    jpeg("420.jpg", quality=85, subsampling="4:2:0")
    jpeg("422.jpg", quality=90, subsampling="4:2:2")
    jpeg("444.jpg", quality=95, subsampling="4:4:4")
    jpeg("rough.jpg", quality=15)
    jpeg("progressive.jpg", quality=80, progressive=True)
    jpeg("restarts.jpg", quality=80, restart_marker_rows=1)
    jpeg("grey.jpg", "L", quality=85)
    jpeg("cmyk.jpg", "CMYK", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg("turned.jpg", quality=85, exif=exif)
    (FOLDER / "png_inside.jpg").write_bytes((FOLDER / "rgba.png").read_bytes())
    write_held(small)
    write_bmp(small, palette)
    write_gif(small)


def write_held(pixels):
    """Images held in all ways, told in EXIF of either byte order, in PNG's and WebP's chunk, or in XMP."""
    picture = Image.fromarray(pixels)
    for way in range(1, 9):
        order, form = ("II", "<") if way % 2 else ("MM", ">")
        entry = struct.pack(form + "HHI", 0x0112, 3, 1) + struct.pack(form + "HH", way, 0)
        other = struct.pack(form + "HHI", 0x0100, 3, 1) + struct.pack(form + "HH", 11, 0)
        exif = order.encode() + struct.pack(form + "HIH", 42, 8, 2) + other + entry + struct.pack(form + "I", 0)
        picture.save(FOLDER / f"held{way}.jpg", "JPEG", quality=90, exif=b"Exif\0\0" + exif)
        if way in (5, 6):
            picture.save(FOLDER / f"held{way}.png", "PNG", exif=exif)
            picture.save(FOLDER / f"held{way}.webp", "WEBP", lossless=True, exif=exif)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    picture.save(FOLDER / "held_xmp.jpg", "JPEG", quality=90, xmp=xmp)
    exif = Image.Exif()
    exif[0x0112] = 9  # no way to hold it
    picture.save(FOLDER / "held9.jpg", "JPEG", quality=90, exif=exif)


def bmp(name, width, height, bits, rows, palette=b"", compression=0, extra=b""):
    """Writes a BMP file with a header of 40 bytes; `height` below 0: rows from above."""
    start = 54 + len(extra) + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rows), 2835, 2835,
                         len(palette) // 4, 0)
    (FOLDER / name).write_bytes(b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + extra + palette
                                + rows)


def write_bmp(pixels, palette):
    height, width, _ = pixels.shape
    picture = Image.fromarray(pixels)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        picture.convert(mode).save(FOLDER / f"bmp_{mode.lower()}.bmp", "BMP")

    def padded(rows):
        return b"".join(row + bytes(-len(row) % 4) for row in rows)

    red, green, blue = (pixels[..., i].astype(np.uint32) for i in range(3))
    five = (red >> 3) << 10 | (green >> 3) << 5 | blue >> 3
    six = (red >> 3) << 11 | (green >> 2) << 5 | blue >> 3
    bmp("bmp_555.bmp", width, height, 16, padded(row.astype("<u2").tobytes() for row in five[::-1]))
    bmp("bmp_565.bmp", width, height, 16, padded(row.astype("<u2").tobytes() for row in six[::-1]), compression=3,
        extra=struct.pack("<III", 0xF800, 0x7E0, 0x1F))
    bmp("bmp_down.bmp", width, -height, 24, padded(row[:, ::-1].tobytes() for row in pixels))
    bmp("bmp_32.bmp", width, height, 32, b"".join((red << 16 | green << 8 | blue)[::-1].astype("<u4")
                                                  .reshape(height, -1)[y].tobytes() for y in range(height)))
    colours = b"".join(bytes([*color[::-1], 0]) for color in palette)
    index = pixels[..., 0] >> 4
    packed = [bytes(int(a) << 4 | int(b) for a, b in zip(row[::2], np.append(row[1::2], 0))) for row in index[::-1]]
    bmp("bmp_4.bmp", width, height, 4, padded(packed), colours)
    runs = b""
    for y, row in enumerate(index[::-1]):
        if y % 3 == 0:  # as they are, an odd number is padded
            runs += bytes([0, width]) + row.astype(np.uint8).tobytes() + bytes(width % 2)
        else:
            for value in row:
                runs += bytes([1, value])
        runs += b"\0\0" if y + 1 < height else b"\0\1"
    bmp("bmp_runs.bmp", width, height, 8, runs, colours, compression=1)


def write_gif(pixels):
    picture = Image.fromarray(pixels).quantize(200)
    picture.save(FOLDER / "plain.gif", "GIF", interlace=0)
    picture.save(FOLDER / "interlaced.gif", "GIF", interlace=1)
    wide = Image.fromarray(photo(90, 120, 5)).quantize(256)  # more than 4096 codes
    wide.save(FOLDER / "large.gif", "GIF")
    picture.save(FOLDER / "moving.gif", "GIF", save_all=True, append_images=[picture.rotate(180)], transparency=3)
    picture.convert("L").save(FOLDER / "grey.gif", "GIF")
    # A first image that is smaller than the screen.
    part = bytearray((FOLDER / "moving.gif").read_bytes())
    place = part.index(b"\x2c\0\0\0\0" + struct.pack("<HH", pixels.shape[1], pixels.shape[0]))
    part[6:10] = struct.pack("<HH", pixels.shape[1] + 5, pixels.shape[0] + 4)
    part[place + 1:place + 5] = struct.pack("<HH", 3, 1)
    (FOLDER / "part.gif").write_bytes(part)
    Image.fromarray(pixels).save(FOLDER / "lossless.webp", "WEBP", lossless=True)
    Image.fromarray(pixels).convert("RGBA").save(FOLDER / "alpha.webp", "WEBP", lossless=True)
    Image.fromarray(pixels).save(FOLDER / "lossy.webp", "WEBP", quality=80)


def pillow(path):
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I;16"):
        return (np.array(image) >> 8).astype(np.uint8)[..., None].repeat(3, -1)
    return np.array(image.convert("RGB"))


def write_resized():
    image = Image.open(FOLDER / "photo.png")
    sizes = [(61, 47), (24, 24), (7, 5), (1, 1), (97, 130), (61, 20), (90, 47), (30, 80), (60, 46)]
    out = {}
    for mode in range(4):
        for height, width in sizes:
            out[f"{mode}_{height}_{width}"] = np.array(image.resize((width, height), resample=mode))
    save_file(out, FOLDER / "resized.safetensors")


IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
HALF = dict(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])


def configurations():
    """By name: the class that reads it, and the options of the file."""
    for model, processor in PROCESSORS.items():
        yield f"{model.lower()}_saved", model, json.loads(processor().to_json_string())
    # As on the Hub: google/vit-base-patch16-224, facebook/deit-base-patch16-224, facebook/dinov2-base.
    yield "vit_hub", "ViT", dict(do_normalize=True, do_resize=True, size=224, **HALF)
    yield "vit_extractor", "ViT", dict(do_normalize=True, do_resize=True, feature_extractor_type="ViTFeatureExtractor",
                                       resample=2, size=28, **HALF)
    yield "deit_hub", "DeiT", dict(crop_size=224, do_center_crop=True, do_normalize=True, do_resize=True,
                                   feature_extractor_type="DeiTFeatureExtractor", resample=3, size=256, **IMAGENET)
    yield "dinov2_hub", "Bit", dict(
        crop_size=dict(height=224, width=224), do_center_crop=True, do_convert_rgb=True, do_normalize=True,
        do_rescale=True, do_resize=True, image_processor_type="BitImageProcessor", resample=3,
        rescale_factor=0.00392156862745098, size=dict(shortest_edge=256), **IMAGENET)
    yield "vit_fast", "ViT", dict(image_processor_type="ViTImageProcessorFast", size=dict(height=20, width=33),
                                  resample=3, do_normalize=True, image_mean=[0.1, 0.2, 0.3], image_std=[0.9, 0.4, 0.2],
                                  crop_size=None, device=None, data_format="channels_first", do_convert_rgb=None)
    yield "bit_number", "Bit", dict(image_processor_type="BitImageProcessor", size=19, crop_size=17, do_normalize=False)
    yield "bit_padded", "Bit", dict(image_processor_type="BitImageProcessor", size=dict(shortest_edge=16), resample=1,
                                    crop_size=dict(height=25, width=18))
    yield "deit_nearest", "DeiT", dict(image_processor_type="DeiTImageProcessor", size=dict(height=31, width=30),
                                       crop_size=dict(height=24, width=25), resample=0, do_rescale=False)
    yield "vit_plain", "ViT", dict(image_processor_type="ViTImageProcessor", do_resize=False, do_rescale=True,
                                   rescale_factor=0.0078125, do_normalize=False)


def write_processed():
    out = {}
    for name, model, options in configurations():
        folder = FOLDER / "processors" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "preprocessor_config.json").write_text(json.dumps(options, indent=2) + "\n")
        processor = PROCESSORS[model].from_pretrained(folder)
        for file in ("photo.png", "420.jpg", "palette8.png"):
            values = np.array(processor(Image.fromarray(pillow(FOLDER / file)), return_tensors="np").pixel_values[0])
            if max(values.shape) > 100:
                values = values[:, ::7, ::7]
            out[f"{name}.{file}"] = np.ascontiguousarray(values, dtype=np.float32)
    save_file(out, FOLDER / "processed.safetensors")


FOLDER.mkdir(parents=True, exist_ok=True)
write_files()
names = sorted(path.name for kind in ("*.png", "*.jpg", "*.bmp", "*.gif", "*.webp") for path in FOLDER.glob(kind))
save_file({name: np.ascontiguousarray(pillow(FOLDER / name)) for name in names}, FOLDER / "decoded.safetensors")
write_resized()
write_processed()
