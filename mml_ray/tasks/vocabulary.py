"""Keywords and licences of tasks. Open sets: a description may bring values of its own."""

from __future__ import annotations

from mml_ray.tasks.open_enum import OpenEnum, member


class Keyword(OpenEnum):
    """What a task shows: its domain, its question, its place in the body."""

    # domains
    MEDICAL = member("medical")
    ANIMALS = member("animals")
    BUILDINGS = member("buildings")
    ARTIFICIAL = member("artificial")
    NATURAL_OBJECTS = member("natural_objects")
    HANDWRITINGS = member("handwritings")
    SCENES = member("scenes")
    FACES = member("faces")
    DRIVING = member("driving")
    DERMATOSCOPY = member("dermatoscopy")
    CATARACT_SURGERY = member("cataract_surgery")
    LARYNGOSCOPY = member("laryngoscopy")
    LAPAROSCOPY = member("laparoscopy")
    GASTROSCOPY_COLONOSCOPY = member("gastroscopy_colonoscopy")
    ENDOSCOPY = member("endoscopy")
    NEPHRECTOMY = member("Nephrectomy")
    FUNDUS_PHOTOGRAPHY = member("fundus_photography")
    ULTRASOUND = member("ultrasound")
    MRI_SCAN = member("mri_scan")
    X_RAY = member("x_ray")
    CT_SCAN = member("ct_scan")
    CLE = member("confocal laser endomicroscopy")
    CAPSULE_ENDOSCOPY = member("capsule endoscopy")
    COLPOSCOPY = member("colposcopy")
    MICROSCOPY = member("microscopy")
    # questions
    ENDOSCOPIC_INSTRUMENTS = member("endoscopic instruments")
    INSTRUMENT_COUNT = member("counting endoscopic instruments")
    ANATOMICAL_STRUCTURES = member("anatomical structures")
    TISSUE_PATHOLOGY = member("tissue_pathology")
    IMAGE_ARTEFACTS = member("image_artefacts")
    CHARS_DIGITS = member("chars_or_digits")
    CELLS = member("cells")
    # places in the body
    CHEST = member("chest")
    BRAIN = member("brain")
    EYE = member("eye")
    BREAST = member("breast")
    BONE = member("bone")
    BLOOD = member("blood")
    GYNECOLOGY = member("Gynecology")


class License(OpenEnum):
    """Under what terms the data may be passed on."""

    UNKNOWN = member("unknown")
    CUSTOM = member("License defined in TaskCreator description")
    CC_BY_NC_4_0 = member("Creative Commons Attribution-NonCommercial 4.0 International")
    CC_BY_4_0 = member("Creative Commons Attribution 4.0 International")
    CC_BY_SA_4_0 = member("Creative Commons Attribution-ShareAlike 4.0 International")
    CC_BY_NC_SA_4_0 = member("Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International")
    DATABASE_CONTENTS_LICENSE_1_0 = member("Open Data Commons DbCL v1.0")
    CC_0_1_0 = member("CC0 1.0 Universal (CC0 1.0) Public Domain Dedication")
    MIT = member("Massachusetts Institute of Technology")
