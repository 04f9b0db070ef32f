# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Add weather to a clear picture: first surfaces, then light, air and falling particles.

Every effect fades in with its intensity, so that intensity 0 gives the clear picture.
"""
from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
from ptdiffseg_ros.town.camera import rays
from ptdiffseg_ros.town.canvas import ROAD, SKY, SUBPIXEL_BITS
from ptdiffseg_ros.town.layout import generator
from ptdiffseg_ros.town.render import View
from ptdiffseg_ros.town.textures import coarse_tile, look_up, PERIOD

WEATHERS = ('clear', 'fog', 'night', 'rain', 'snow')
MIXTURE = 'mixture'
# In captions. Adaptation names the domains by them.
ADJECTIVES = {
    'clear': 'clear', 'fog': 'foggy', 'night': 'night', 'rain': 'rainy', 'snow': 'snowy'}
_NOTICEABLE = 0.2


@dataclass(frozen=True)
class Weather:
    """
    The intensity of each kind of weather, 0 to 1; all 0 is clear weather by day.

    :raises ValueError: an intensity is not within 0 to 1
    """

    fog: float = 0.
    night: float = 0.
    rain: float = 0.
    snow: float = 0.

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            if not 0. <= value <= 1.:  # also refuses NaN
                raise ValueError(f'{part.name} is {value}; use an intensity from 0 to 1')

    @classmethod
    def named(cls, name: str, intensity: float = 0.7) -> Weather:
        """
        Return one kind of weather alone; 'clear' ignores the intensity.

        :raises ValueError: the name is not in WEATHERS, or the intensity not within 0 to 1
        """
        if name not in WEATHERS:
            raise ValueError(f'weather {name!r} is not known; use one of {", ".join(WEATHERS)}')
        return cls() if name == 'clear' else cls(**{name: intensity})

    @property
    def name(self) -> str:
        """Return the name of the strongest kind, the first of WEATHERS among equals."""
        strongest = max(WEATHERS[1:], key=lambda name: getattr(self, name))
        return strongest if getattr(self, strongest) > 0 else 'clear'

    @property
    def adjectives(self) -> tuple[str, ...]:
        """Return the adjectives of all noticeable kinds; without any, ('clear',)."""
        words = tuple(ADJECTIVES[name] for name in WEATHERS[1:]
                      if getattr(self, name) >= _NOTICEABLE)
        return words or ('clear',)


def draw_weather(name: str, rng: np.random.Generator) -> Weather:
    """
    Return the named weather at an intensity drawn evenly from 0.4 to 1.

    MIXTURE draws two different kinds, with intensities from 0.4 to 0.8.
    """
    if name == MIXTURE:
        one, other = rng.choice(WEATHERS[1:], 2, replace=False).tolist()
        return Weather(**{one: float(rng.uniform(0.4, 0.8)), other: float(rng.uniform(0.4, 0.8))})
    return Weather.named(name, float(rng.uniform(0.4, 1.0)))


def _smooth(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return 0 below low, 1 above high, and a smooth step between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _mix(image: np.ndarray, other: np.ndarray | float, share: np.ndarray | float) -> np.ndarray:
    return image + (other - image) * share


def apply(view: View, weather: Weather, moment: int) -> np.ndarray:
    """
    Return the picture in a weather, float32 (3, H, W), 0 to 1.

    :param view: the clear picture and its maps
    :param moment: number of the frame, which seeds flakes, drops and noise
    """
    if weather == Weather():
        return view.image
    image = view.image
    # tone of fog and places of snow are constant along a street; falling particles are not
    lasting = generator(view.street.seed, 8)
    tone = lasting.uniform(-1, 1, 4).astype(np.float32)
    overcast = max(weather.rain, weather.snow, 0.)
    if overcast:
        image = _overcast(view, image, weather, tone)
    if weather.snow:
        image = _snow_cover(view, image, weather.snow, tone)
    if weather.rain:
        image = _wet(view, image, weather.rain)
    ambient = 1 / (1 + 8 * weather.night)
    if weather.night:
        image = _night(view, image, weather, ambient)
    if weather.rain:
        image = _reflections(view, image, weather.rain, moment)
    image = _air(view, image, weather, ambient, tone)
    if weather.night:
        image = _bloom(view, image, weather)
    if weather.snow:
        image = _flakes(view, image, weather.snow, ambient, moment)
    if weather.rain:
        image = _streaks(view, image, weather.rain, ambient, moment)
    if weather.night:
        image = _sensor(view, image, weather.night, moment)
    return np.clip(image, 0, 1)


def _planes(picture: np.ndarray) -> np.ndarray:
    """Turn (H, W, 3) into (3, H, W)."""
    return np.stack(cv2.split(picture))


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    """Return a colour that spreads over a picture, (3, 1, 1)."""
    return np.array([[[red]], [[green]], [[blue]]], np.float32)


def _grey(tone: float, level: float) -> np.ndarray:
    """Return a grey of the sky; tone, -1 to 1, shifts it between warm and cold."""
    return _rgb(level - .012, level, level + .014 + .01 * tone)


def _overcast(view: View, image: np.ndarray, weather: Weather, tone: np.ndarray) -> np.ndarray:
    """Cover the sky with grey, and reduce contrast and colour below it."""
    rain, snow = weather.rain, weather.snow
    level = .66 - .16 * rain / max(rain + snow, 1e-6) + .06 * float(tone[0])
    strength = min(max(rain, snow) / .35, 1.)
    ray_x, ray_y = rays(view.camera)
    noise = look_up(coarse_tile(), (ray_x + view.camera.yaw) * 30 + view.street.seed % 499,
                    40 / (np.maximum(ray_y, 0) + .25))
    sky = _grey(float(tone[1]), level) * (1 + .07 * noise)
    image = _mix(image, sky, view.sky * strength)
    luma = (image[0] + image[1] + image[2]) / 3
    image = _mix(image, luma, .35 * max(rain, .7 * snow) * strength)
    return image * (1 - .42 * rain - .12 * snow * (1 - rain))


def _snow_cover(view: View, image: np.ndarray, snow: float, tone: np.ndarray) -> np.ndarray:
    """Cover upward surfaces with snow, with wheel tracks on the road."""
    x, z = view.x, view.z
    wide = look_up(coarse_tile(), x * .9 + 40 * float(tone[2]), z * .5)
    detail = look_up(coarse_tile(), x * 5, z * 5)
    lies = 2.1 * snow - .55 + .42 * wide + .1 * detail + .45 * (view.snow - .9)
    road = view.labels == ROAD
    track = np.zeros_like(x)
    left, right = view.street.style.sides
    for side, sign in ((left, -1), (right, 1)):
        for lane in range(side.lanes):
            middle = sign * (1.7 + 3.2 * lane)
            for wheel in (-.8, .8):
                track += np.exp(-((x - middle - wheel - .12 * wide) / .3) ** 2)
    track = np.where(road, np.minimum(track, 1), 0)
    cover = _smooth(lies - .62 * track * (1.25 - snow), 0., .6) * np.minimum(view.snow * 1.1, 1)
    cover *= min(snow / .15, 1.) * (.97 - .1 * road)
    light = .84 + .05 * float(tone[3]) + .05 * wide + .025 * detail - .13 * track
    white = np.stack([light * .97, light * .985, light * 1.01])
    return _mix(image, white, cover)


def _wet(view: View, image: np.ndarray, rain: float) -> np.ndarray:
    """Darken wet surfaces."""
    wet = np.where(view.labels <= 1, .42, np.where(view.labels == SKY, 0., .12)) * rain
    return image * (1 - wet).astype(np.float32)


def _night(view: View, image: np.ndarray, weather: Weather, ambient: float) -> np.ndarray:
    """Light the street with remaining daylight, headlights, street lamps and windows."""
    night = weather.night
    ray_x, ray_y = rays(view.camera)
    reach = np.minimum(view.depth, 400.)
    y = view.y
    beam = np.exp(-(ray_x / .34) ** 2) * _smooth(2.3 - y - .012 * reach, 0., 2.2)
    beam = beam * _smooth(reach, 3., 8.) / (1 + (reach / 18) ** 2) * (view.labels != SKY)
    light = ambient * _rgb(.82, .94, 1.22) + .8 * night * beam * _rgb(1., .95, .84)
    pools = np.zeros_like(reach)
    base = view.camera.z - view.camera.z % PERIOD
    for x, z in view.lamps:
        away = (view.x - x) ** 2 + (view.z + base - z) ** 2
        pools += np.exp(-away / 40.) * (y < 6.)
    pools = np.minimum(pools, 1.) * (view.labels != SKY)
    light = light + .4 * night * pools * _rgb(1., .82, .55)
    day = 1 - min(night / .4, 1.)
    light = _mix(light, 1., day * day)
    # at night the sky is darker than the ground
    light = light * (1 - .55 * night * view.sky)
    image = image * light.astype(np.float32)
    lit = view.glow * min(night / .3, 1.)
    strength = lit.max(0)
    return _mix(image, lit * .95, strength * .93)


def _bloom(view: View, image: np.ndarray, weather: Weather) -> np.ndarray:
    """Add halos around lamps and windows, larger ones in fog."""
    height, width = view.labels.shape
    size = (max(width // 2, 1), max(height // 2, 1))
    small = cv2.resize(cv2.merge(tuple(view.glow)), size, interpolation=cv2.INTER_AREA)
    near = cv2.GaussianBlur(small, (0, 0), .008 * width)
    wide = cv2.GaussianBlur(cv2.resize(near, (size[0] // 2, size[1] // 2)), (0, 0), .015 * width)
    halo = cv2.resize(near, (width, height)) * .7 + cv2.resize(wide, (width, height)) * (
        1. + .6 * weather.fog)
    return image + _planes(halo) * weather.night * (1 - .35 * weather.fog)


def _reflections(view: View, image: np.ndarray, rain: float, moment: int) -> np.ndarray:
    """Mirror objects above the road in its wet surface."""
    height, width = view.labels.shape
    horizon = view.camera.horizon * height
    ground = (view.labels <= 1).astype(np.float32)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, z = view.x, view.z
    ripple = look_up(coarse_tile(), x * 9 + moment * 1.7, z * 4.5)
    puddle = look_up(coarse_tile(), x * 1.1 + 77, z * .5)
    # rows above the picture repeat its top row, so that the mirror image reaches the bottom
    mirrored = np.maximum(2 * horizon - rows * .96 - .04 * horizon + ripple * height * .02, 0.)
    source = cv2.blur(cv2.merge(tuple(image)), (1, max(int(height * .05), 1) | 1))
    mirror = cv2.remap(source, columns + ripple * width * .006, mirrored, cv2.INTER_LINEAR,
                       borderMode=cv2.BORDER_REPLICATE)
    below = np.clip((rows - horizon) / height, 0, 1)
    grazing = .55 + .35 * np.exp(-below * 7)
    share = ground * rain * grazing * (.62 + .38 * _smooth(puddle, -.5, .6))
    return _mix(image, _planes(mirror), share)


def extinction(weather: Weather) -> float:
    """Return the air's extinction coefficient in 1 / m (Koschmieder's law)."""
    return (.01 * min(weather.fog / .05, 1.) + .08 * weather.fog
            + .016 * weather.rain + .02 * weather.snow)


def airlight(weather: Weather, ambient: float, tone: np.ndarray) -> np.ndarray:
    """Return the airlight, (3, 1, 1) RGB."""
    total = extinction(weather)
    fog = (total - .016 * weather.rain - .02 * weather.snow) / max(total, 1e-9)
    level = fog * (.74 + .06 * float(tone[0])) + (1 - fog) * (
        .64 - .2 * weather.rain + .06 * float(tone[0]))
    night = _rgb(.82, .93, 1.1) if weather.night else np.float32(1)
    return _grey(float(tone[1]), level) * ambient * night


def _air(view: View, image: np.ndarray, weather: Weather, ambient: float,
         tone: np.ndarray) -> np.ndarray:
    """Attenuate by distance and add airlight: I = J exp(-b d) + A (1 - exp(-b d))."""
    b = extinction(weather)
    if b == 0:
        return image
    reach = np.minimum(view.depth, 600.)
    clear = np.exp(-np.float32(b) * reach)
    return image * clear + airlight(weather, ambient, tone) * (1 - clear)


def _fixed(points: np.ndarray) -> list[list[int]]:
    """Return points (N, 2) in fixed point."""
    return np.rint(points * (1 << SUBPIXEL_BITS)).astype(int).tolist()


def _flakes(view: View, image: np.ndarray, snow: float, ambient: float,
            moment: int) -> np.ndarray:
    """Paint flakes with motion blur: many small distant ones, few large near ones."""
    rng = generator(view.street.seed, 5, moment)
    height, width = view.labels.shape
    unit = width / 256
    wind = rng.uniform(-.6, .6)
    layer = np.zeros((height, width), np.uint8)
    area = height * width / 32768 / unit ** 2
    for count, low, high, trail, bright in (
            (420, .35, .7, .8, 150), (190, .6, 1.1, 1.6, 200), (60, 1.1, 1.9, 2.6, 235),
            (9, 2.2, 3.6, 3.5, 190)):
        number = int(round(count * snow * area))
        at = rng.uniform(-.05, 1.05, (number, 2)) * (width, height)
        radius = rng.uniform(low, high, number) * unit
        length = trail * unit * rng.uniform(.4, 1.2, number)
        shade = bright * rng.uniform(.7, 1., number)
        ends = at + np.stack([wind * length, length], -1)
        start, stop = _fixed(at), _fixed(ends)
        thick = np.maximum(np.rint(radius * 2), 1).astype(int).tolist()
        for a, b, size, ink in zip(start, stop, thick, shade.tolist()):
            cv2.line(layer, a, b, ink, size, cv2.LINE_AA, SUBPIXEL_BITS)
    layer = cv2.GaussianBlur(layer, (0, 0), .55 * unit)
    share = layer.astype(np.float32) / 255
    return _mix(image, .93 * min(ambient * 2.2, 1.), share * .92)


def _streaks(view: View, image: np.ndarray, rain: float, ambient: float,
             moment: int) -> np.ndarray:
    """Paint streaks of rain, and drops on the lens."""
    rng = generator(view.street.seed, 6, moment)
    height, width = view.labels.shape
    unit = width / 256
    slant = rng.uniform(-.35, .35)
    area = height * width / 32768 / unit ** 2
    layer = np.zeros((height, width), np.uint8)
    for count, low, high, size, bright in (
            (170, 4, 9, .6, 120), (80, 8, 16, 1., 150), (22, 14, 28, 1.4, 150)):
        number = int(round(count * (.25 + .75 * rain) * min(rain / .1, 1.) * area))
        at = rng.uniform(-.1, 1., (number, 2)) * (width, height)
        length = rng.uniform(low, high, number) * unit
        angle = slant + rng.normal(0, .04, number)
        ends = at + np.stack([np.sin(angle) * length, np.cos(angle) * length], -1)
        shade = (bright * rng.uniform(.4, 1., number) * (.6 + .4 * rain)).tolist()
        thick = max(int(round(size * unit)), 1)
        start, stop = _fixed(at), _fixed(ends)
        for a, b, ink in zip(start, stop, shade):
            cv2.line(layer, a, b, ink, thick, cv2.LINE_AA, SUBPIXEL_BITS)
    share = layer.astype(np.float32) / 255
    image = _mix(image, .8 * min(ambient * 2., 1.), share * .8)
    drops = np.zeros((height, width), np.uint8)
    for _ in range(int(round(9 * rain * area))):
        center = np.rint(rng.uniform(0, 1, 2) * (width, height)).astype(int).tolist()
        cv2.circle(drops, center, max(int(round(rng.uniform(1.5, 4.5) * unit)), 1), 255, -1,
                   cv2.LINE_AA)
    if drops.any():
        # a drop shows the scene upside down and out of focus
        blur = max(int(12 * unit), 1)
        seen = _planes(cv2.blur(cv2.merge(tuple(image)), (blur, blur))[::-1])
        mask = cv2.GaussianBlur(drops, (0, 0), .8 * unit).astype(np.float32) / 255
        image = _mix(image, _mix(image, seen, .7) * 1.06, mask * .75)
    return image


def _sensor(view: View, image: np.ndarray, night: float, moment: int) -> np.ndarray:
    """Add the shot and read-out noise of a sensor at high gain."""
    rng = generator(view.street.seed, 7, moment)
    height, width = view.labels.shape
    # drawn pixel by pixel, in the order in which a sensor is read
    noise = _planes(rng.standard_normal((height, width, 3), np.float32))
    bright = rng.standard_normal((height, width), np.float32)
    sigma = night * (.012 + .05 * np.sqrt(np.maximum(image, 0)))
    return image + (.75 * noise + .65 * bright) * sigma
