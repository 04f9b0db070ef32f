# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Valid and malformed image messages become RGB or a clear error."""

from __future__ import annotations

import array
import io
from types import SimpleNamespace
import zlib

import cv2
from hypothesis import given, settings, strategies as st
import numpy as np
from PIL import Image as Picture
from ptdiffseg_ros.data.depth import Depth
from ptdiffseg_ros.ros import images
from ptdiffseg_ros.ros.images import decode, ImageError
import pytest

CHANNELS = {'rgb': 3, 'bgr': 3, 'rgba': 4, 'bgra': 4, 'mono': 1, 'bayer_rggb': 1,
            'bayer_bggr': 1, 'bayer_gbrg': 1, 'bayer_grbg': 1}


def oracle(image_message: SimpleNamespace) -> np.ndarray:
    """Decode by rosbags-image, which knows neither `step` nor endianness on single bytes."""
    module = pytest.importorskip('rosbags.image', reason='rosbags-image comes with the extra test')
    return module.message_to_cvimage(image_message, 'rgb8')


def message(pixels: np.ndarray, encoding: str, padding: int = 0, big: bool = False,
            **changes) -> SimpleNamespace:
    """Lay (H, W) or (H, W, C) samples out as a sensor_msgs/Image with padded rows."""
    if pixels.dtype == np.uint16:
        pixels = pixels.astype('>u2' if big else '<u2')
    rows = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    fields = {'width': pixels.shape[1], 'height': pixels.shape[0], 'encoding': encoding,
              'step': padded.shape[1], 'is_bigendian': int(big),
              'data': array.array('B', padded.tobytes())}
    return SimpleNamespace(**{**fields, **changes})


def picture(height: int = 24, width: int = 32) -> np.ndarray:
    """Return a smooth coloured RGB image, (H, W, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([40 + 5 * x, 60 + 6 * y, 200 - 3 * x], axis=-1).clip(0, 255).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(CHANNELS)), st.sampled_from([8, 16]), st.integers(2, 20),
       st.integers(2, 20), st.integers(0, 7), st.booleans(), st.integers(0, 2 ** 32 - 1))
def test_every_layout_decodes_as_the_oracle_does(kind, bits, width, height, padding, big, seed):
    dtype = np.uint8 if bits == 8 else np.uint16
    shape = (height, width) + ((CHANNELS[kind],) if CHANNELS[kind] > 1 else ())
    pixels = np.random.default_rng(seed).integers(0, 2 ** bits, shape, dtype)
    if kind.startswith('bayer'):  # demosaicing rounds 8 and 16 bits apart on noise
        pixels = np.full(shape, seed % 2 ** bits, dtype)
    if bits == 16:  # the oracle takes all 16 bits for significant, so let the data need them
        pixels |= 0x8000

    ours = decode(message(pixels, f'{kind}{bits}', padding, big))

    theirs = oracle(message(pixels, f'{kind}{bits}'))
    assert ours.shape == (height, width, 3) and ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    assert np.abs(ours.astype(int) - theirs).max() <= bits // 16  # 16 bits: rounded or cut


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize('bits', [8, 16])
def test_bayer_patterns_are_named_by_their_first_two_rows(pattern, bits):
    color = np.array([200, 100, 50])
    mosaic = np.zeros((16, 16), np.uint8)
    for name, (dy, dx) in zip(pattern, [(0, 0), (0, 1), (1, 0), (1, 1)]):
        mosaic[dy::2, dx::2] = color['rgb'.index(name)]
    if bits == 16:
        mosaic = mosaic.astype(np.uint16) * 256

    assert (decode(message(mosaic, f'bayer_{pattern}{bits}')) == color).all()


@pytest.mark.parametrize('encoding, order', [
    ('yuv422', 'uyvy'), ('uyvy', 'uyvy'), ('yuv422_yuy2', 'yuyv'), ('yuyv', 'yuyv')])
def test_yuv422_kinds_give_the_colours_that_went_in(encoding, order):
    rgb = np.full((8, 16, 3), (180, 90, 40), np.uint8)
    # Studio range BT.601, as cameras send it.
    r, g, b = (rgb[0, 0] / 255.0).tolist()
    y = 16 + 65.481 * r + 128.553 * g + 24.966 * b
    u = 128 - 37.797 * r - 74.203 * g + 112.0 * b
    v = 128 + 112.0 * r - 93.786 * g - 18.214 * b
    chroma = {'u': u, 'v': v}
    pair = [round(y if name == 'y' else chroma[name]) for name in order]
    packed = np.tile(np.array(pair, np.uint8), (8, 8)).reshape(8, 16, 2)

    assert np.abs(decode(message(packed, encoding, padding=6)).astype(int) - rgb).max() <= 3


@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
def test_planar_yuv_honours_padded_rows(encoding):
    planes = np.random.default_rng(0).integers(0, 255, (12, 16), np.uint8)  # 8 rows + 4 of colour
    padded = message(planes, encoding, padding=5, height=8)

    code = getattr(cv2, f'COLOR_YUV2RGB_{encoding.upper()}')
    assert (decode(padded) == cv2.cvtColor(planes, code)).all()


SIXTEEN = {**{f'{kind}16': channels for kind, channels in CHANNELS.items()},
           '16UC1': 1, '16UC3': 3, '16UC4': 4}


def of_8_bits(encoding: str) -> str:
    """Return the 8-bit encoding of the same layout."""
    return encoding.replace('16', '8')


def sensor(pixels: np.ndarray, depth: int, seed: int = 0) -> np.ndarray:
    """Give (H, W, C) uint8 as a sensor of more bits would have seen it; alpha is full."""
    low = np.random.default_rng(seed).integers(0, 2 ** (depth - 8), pixels.shape, np.uint16)
    seen = (pixels.astype(np.uint16) << (depth - 8)) + low
    seen[..., 3:] = 65535
    return seen


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(SIXTEEN)), st.sampled_from([8, 10, 12, 14, 16]),
       st.integers(2, 20), st.integers(2, 20), st.integers(0, 7), st.booleans(),
       st.integers(0, 2 ** 32 - 1))
def test_a_sensor_of_any_depth_gives_the_image_of_an_8_bit_sensor(
        encoding, depth, width, height, padding, big, seed):
    shape = (height, width, SIXTEEN[encoding])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    pixels[-1, -1, 0] = 128 + seed % 128  # so bright that every bit of the sensor is needed

    ours = decode(message(sensor(pixels, depth, seed), encoding, padding, big))

    assert (ours == decode(message(pixels, of_8_bits(encoding)))).all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 3, 4]), st.sampled_from([8, 10, 12, 14, 16]),
       st.integers(0, 2 ** 32 - 1))
def test_a_16_bit_png_is_as_bright_as_an_8_bit_png(channels, depth, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 14, channels), np.uint8)
    pixels[0, 0, 0] = 255
    _, data = cv2.imencode('.png', sensor(pixels, depth, seed))

    ours = decode(SimpleNamespace(format='png', data=data))

    assert (ours == (pixels if channels == 1 else pixels[..., 2::-1])).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
def test_the_depth_of_a_camera_rises_at_once_and_never_falls(peaks):
    depth, before = Depth(), 0
    for peak in peaks:
        frame = np.array([[0, peak // 3, peak]], np.uint16)
        shown = decode(message(frame, 'mono16'), depth)[0, :, 0]

        assert depth.bits >= before and 2 ** depth.bits > peak
        assert depth.bits == before or depth.bits in (8, 10, 12, 14, 16)
        assert shown.tolist() == [int(v) >> max(depth.bits, 8) - 8 for v in frame[0]]
        before = depth.bits
    assert 2 ** max(before - 2, 8) <= max(peaks) or before <= 8


def test_dark_frames_of_a_12_bit_sensor_stay_dark_after_a_bright_one():
    bright, dark = (np.full((4, 4), value, np.uint16) for value in (4000, 160))
    depth = Depth()

    assert (decode(message(bright, 'bayer_rggb16'), depth) == 250).all()
    for _ in range(3):
        assert (decode(message(dark, 'bayer_rggb16'), depth) == 10).all()
    assert (decode(message(dark, 'bayer_rggb16')) == 160).all(), 'a single image has no history'


def test_a_given_depth_is_used_and_larger_values_are_white():
    frame = np.array([[0, 100, 4095, 65535]], np.uint16)
    depth = Depth(12)

    assert decode(message(frame, 'mono16'), depth)[0, :, 0].tolist() == [0, 6, 255, 255]
    depth.given = 16
    assert decode(message(frame, 'mono16'), depth)[0, :, 0].tolist() == [0, 0, 15, 255]


def test_the_depth_is_detected_again_when_it_is_no_longer_given():
    depth = Depth(16)
    decode(message(np.full((2, 2), 900, np.uint16), 'mono16'), depth)
    depth.given = 0

    assert depth.bits == 10


def test_black_frames_do_not_set_the_depth():
    depth = Depth()

    assert (decode(message(np.zeros((2, 2), np.uint16), 'mono16'), depth) == 0).all()
    assert depth.bits == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), st.integers(0, 2 ** 32 - 1))
def test_nv24_gives_each_pixel_its_own_colour(width, height, padding, seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    # Studio range BT.601, as cameras send it.
    yuv = rgb / 255 @ np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0],
                                [112.0, -93.786, -18.214]]).T + (16, 128, 128)
    y, chroma = yuv[..., 0].round(), yuv[..., 1:].round().reshape(height, -1)
    planes = [np.pad(plane, ((0, 0), (0, pad))).astype(np.uint8).tobytes()
              for plane, pad in ((y, padding), (chroma, 2 * padding))]

    ours = decode(message(rgb, 'nv24', step=width + padding, data=b''.join(planes)))

    assert ours.shape == rgb.shape and ours.dtype == np.uint8 and ours.flags.c_contiguous
    assert np.abs(ours.astype(int) - rgb).max() <= 3


def test_nv24_has_the_colours_of_nv12():
    rgb = np.full((4, 4, 3), (180, 90, 40), np.uint8)
    y, u, v = 97, 99, 169
    luma = np.full(16, y, np.uint8).tobytes()
    nv12 = message(rgb, 'nv12', step=4, data=luma + bytes([u, v] * 4))
    nv24 = message(rgb, 'nv24', step=4, data=luma + bytes([u, v] * 16))

    assert np.abs(decode(nv24).astype(int) - decode(nv12)).max() <= 1


@pytest.mark.parametrize('encoding, meant', [
    ('8UC1', 'mono8'), ('16UC1', 'mono16'), ('8UC3', 'bgr8'), ('8UC4', 'bgra8')])
def test_plain_matrices_are_read_as_opencv_orders_them(encoding, meant):
    channels = int(encoding[-1])
    pixels = np.random.default_rng(0).integers(
        0, 255, (6, 8, channels), np.uint16 if encoding[:2] == '16' else np.uint8)

    assert (decode(message(pixels, encoding)) == decode(message(pixels, meant))).all()


def test_the_data_may_be_any_buffer():
    pixels = picture()
    for data in (pixels.tobytes(), np.frombuffer(pixels.tobytes(), np.uint8),
                 array.array('B', pixels.tobytes()), memoryview(pixels.tobytes())):
        assert (decode(message(pixels, 'rgb8', data=data)) == pixels).all()


def test_rgb_without_padding_is_not_copied():
    plain = message(picture(), 'rgb8')

    assert np.shares_memory(decode(plain), np.frombuffer(plain.data, np.uint8))


@pytest.mark.parametrize('changes, named', [
    ({'encoding': 'rgb9'}, ['rgb9', 'rgb8', 'bayer_rggb8', 'camera driver']),
    ({'encoding': ''}, ["''", 'rgb8']),
    ({'width': 0}, ['0 x 24']),
    ({'height': 0}, ['32 x 0']),
    ({'width': 2 ** 31, 'height': 2 ** 31}, ['2147483648', 'at most']),
    ({'step': 95}, ['95', '96']),
    ({'step': 0}, ['step is 0', '96']),
    ({'data': b'short'}, ['5 bytes', '2304']),
    ({'data': b''}, ['0 bytes', '2304']),
    ({'encoding': 'yuv422', 'width': 31}, ['31 x 24', 'even']),
    ({'encoding': 'nv12', 'height': 23}, ['32 x 23', 'even']),
    ({'encoding': 'nv24', 'data': b'short'}, ['5 bytes', '6912']),
])
def test_an_error_for_a_wrong_message_names_the_value_and_what_is_allowed(changes, named):
    with pytest.raises(ImageError) as caught:
        decode(message(picture(), **{'encoding': 'rgb8', **changes}))
    for words in named:
        assert words in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*images.ENCODINGS, 'x']), st.integers(0, 40), st.integers(0, 40),
       st.integers(0, 200), st.integers(0, 255), st.binary(max_size=2000))
def test_arbitrary_fields_give_an_image_or_an_image_error(encoding, width, height, step, big,
                                                          data):
    wild = SimpleNamespace(width=width, height=height, step=step, encoding=encoding,
                           is_bigendian=big, data=data)
    try:
        assert decode(wild).shape == (height, width, 3)
    except ImageError:
        pass


def compressed(pixels: np.ndarray, kind: str, form: str | None = None) -> SimpleNamespace:
    """Compress RGB or grey pixels as a sensor_msgs/CompressedImage."""
    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, kind)
    return SimpleNamespace(format=form or kind, data=array.array('B', buffer.getvalue()))


def test_png_comes_back_exactly_and_jpeg_nearly():
    pixels = picture()

    assert (decode(compressed(pixels, 'png', 'rgb8; png compressed bgr8')) ==
            pixels).all()
    jpeg = decode(compressed(pixels, 'jpeg', 'rgb8; jpeg compressed bgr8'))
    assert np.abs(jpeg.astype(int) - pixels).mean() < 8


def test_compressed_images_decode_as_the_oracle_does():
    jpeg = compressed(picture(), 'jpeg')

    assert np.abs(decode(jpeg).astype(int) - oracle(jpeg)).max() <= 2


def test_compressed_grey_alpha_and_16_bits_become_rgb():
    grey = picture()[..., 0]
    alpha = np.dstack([picture(), grey])

    for pixels in (grey, grey.astype(np.uint16) * 256):
        rgb = decode(compressed(pixels, 'png'))
        assert rgb.shape == (24, 32, 3) and (rgb[..., 1] == grey).all()
    assert (decode(compressed(alpha, 'png')) == picture()).all()


MOSAIC = np.tile(np.array([[200, 100], [100, 50]], np.uint8), (8, 8))


@pytest.mark.parametrize('form', [
    'bayer_rggb8; png compressed ',  # of every release
    'bayer_rggb8; jpeg compressed ',  # before Humble
    'bayer_rggb8; jpeg compressed bayer_rggb8',  # with jpeg_compress_bayer
    'bayer_rggb8',
])
def test_compressed_bayer_is_demosaiced(form):
    rgb = decode(compressed(MOSAIC, 'png', form))
    assert (rgb == (200, 100, 50)).all()


@pytest.mark.parametrize('kind', ['jpeg', 'png'])
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_grey_pictures_of_a_bayer_camera_stay_grey(kind, bits, pattern):
    grey = picture()[..., 0]
    form = f'bayer_{pattern}{bits}; {kind} compressed mono8'  # of Humble and later

    ours = decode(compressed(grey, kind, form)).astype(int)

    assert (ours == ours[..., :1]).all()
    assert np.abs(ours[..., 0] - grey).mean() < 2


@pytest.mark.parametrize('form', ['16UC1; compressedDepth', '32FC1; compressedDepth png',
                                  '16UC1; compressedDepth rvl'])
def test_a_compressed_depth_image_is_refused_by_name(form):
    data = bytes(12) + compressed(MOSAIC, 'png').data.tobytes()
    with pytest.raises(ImageError, match='depth image.*colour image'):
        decode(SimpleNamespace(format=form, data=data))


@pytest.mark.parametrize('kind', ['jpeg', 'png'])
def test_a_damaged_compressed_image_is_refused(kind):
    whole = compressed(picture(240, 320), kind)
    for data in (b'', b'no image', whole.data[:30], whole.data[:len(whole.data) // 2]):
        with pytest.raises(ImageError, match=rf'{kind}.*{len(data)} bytes.*publish jpeg or png'):
            decode(SimpleNamespace(format=kind, data=data))


def test_a_truncated_16_bit_png_is_refused():
    _, whole = cv2.imencode('.png', sensor(picture(240, 320), 12))
    with pytest.raises(ImageError, match='not a whole jpeg or png'):
        decode(SimpleNamespace(format='png', data=whole[:len(whole) // 2].tobytes()))


def test_a_compressed_image_of_absurd_size_is_refused_before_it_is_unpacked():
    small = compressed(np.zeros((8, 8), np.uint8), 'png')
    data = bytearray(small.data.tobytes())
    data[16:24] = (60000).to_bytes(4, 'big') * 2  # width and height in the png's header
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, 'big')

    with pytest.raises(ImageError):
        decode(SimpleNamespace(format='png', data=bytes(data)))


WHOLE = {kind: compressed(picture(), kind).data.tobytes() for kind in ('jpeg', 'png')}


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 600), st.text(max_size=12),
       st.sampled_from(['jpeg', 'png']))
def test_arbitrary_bytes_give_an_image_or_an_image_error(junk, at, form, kind):
    data = bytearray(WHOLE[kind])
    data[at:at + len(junk)] = junk
    try:
        assert decode(SimpleNamespace(format=form, data=bytes(data))).shape[2] == 3
    except ImageError:
        pass


@pytest.mark.parametrize('data', [b'', b'GIF89a', b'no image at all'])
def test_an_error_for_bytes_of_another_format_names_the_format(data: bytes) -> None:
    with pytest.raises(ImageError, match='it begins as neither') as refusal:
        decode(SimpleNamespace(format='jpeg', data=data))
    assert 'BytesIO' not in str(refusal.value)
