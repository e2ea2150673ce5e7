"""The presets: keys and values of a group, read as if they were written in place of the preset's name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PRESETS: Mapping[str, Mapping[str, str | tuple[str, ...]]] = MappingProxyType(
    {
        "kubernetes-pods": {
            "group": "pods",
            "paths": ("/var/log/pods/*/*/*.log",),
            # The end of the kubelet's paths, so that paths below another root get the labels too. The uid of a static
            # pod is a hash of 32 digits instead of a UUID, so any text matches.
            "path_regex": "/(?P<namespace>[^/_]+)_(?P<pod>[^/_]+)_(?P<uid>[^/]+)/(?P<container>[^/]+)/[^/]+$",
            "aggregate_by": ("namespace", "pod", "container"),
        }
    }
)
