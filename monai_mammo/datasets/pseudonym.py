"""Who a patient is, from a header, and what stands for a patient outside of it."""

from __future__ import annotations

import os
import re
from hashlib import blake2b

from monai_mammo.dicom.header import MammogramHeader

KEY_VARIABLE = "MONAI_MAMMO_PSEUDONYM_KEY"
"""Environment variable with the secret that pseudonyms are made with."""

# What anonymisation leaves in the place of a PatientID: one value for everybody, so it tells nobody apart.
_NOBODY = re.compile(r"(anon(ymous|ymi[sz]ed)?|unknown|none|nan|n/?a|no[ _]?(id|name)|removed|0*)\W*", re.IGNORECASE)


def pseudonym(identifier: str) -> str:
    """Sixteen hexadecimal digits that stand for an identifier: the same for the same identifier and key.

    The key is the environment variable `MONAI_MAMMO_PSEUDONYM_KEY`. Without one, who has a list of identifiers can find
    out which of them is meant; with one, only who knows the key.
    """
    key = blake2b(os.environ.get(KEY_VARIABLE, "").encode()).digest() if os.environ.get(KEY_VARIABLE) else b""
    return blake2b(identifier.encode(), digest_size=8, key=key).hexdigest()


def patient_of(header: MammogramHeader) -> str:
    """What tells this patient from others: PatientID, or the study where PatientID tells nobody apart; may be empty."""
    return header.study_instance_uid if _NOBODY.fullmatch(header.patient_id) else header.patient_id


def spelt(identifier: str) -> str:
    """What two spellings of one identifier have in common: no capitals, spaces or zeros before a number."""
    return re.sub(r"\s+|(?<!\d)0+(?=\d)", "", identifier.casefold())
