"""The hands that draw: icon sets of the npm registry, each under an artist's name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """One package of the npm registry, by version and hash."""

    name: str
    version: str
    sha512: str
    """Base64, as the registry gives it."""
    licence: str


@dataclass(frozen=True)
class Hand:
    """An icon set; ``name`` and ``surname`` are one word each."""

    name: str
    surname: str
    package: Package


def _set(name: str, version: str, sha512: str, licence: str) -> Package:
    return Package(f"@iconify-json/{name}", version, sha512, licence)


HANDS = (
    Hand("nora", "keller", _set(
        "noto", "1.2.9", "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0")),
    Hand("greta", "novak", _set(
        "twemoji", "1.2.5", "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0")),
    Hand("oscar", "larsen", _set(
        "openmoji", "1.2.29",
        "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        "CC-BY-SA-4.0")),
    Hand("flynn", "weber", _set(
        "fluent-emoji-flat", "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT")),
    Hand("emil", "hansen", _set(
        "emojione", "1.2.3",
        "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        "CC-BY-4.0")),
    Hand("norman", "brandt", _set(
        "noto-v1", "1.2.5", "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        "Apache-2.0")),
    Hand("fritz", "moreno", _set(
        "fxemoji", "1.2.2", "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        "Apache-2.0")),
)  # fmt: skip
KEYWORDS = Package(
    "emojibase-data", "17.0.0",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==", "MIT",
)  # fmt: skip
"""The names and tags that people file drawings under."""

NAMES = tuple(hand.name for hand in HANDS)
