"""The bodies of requests, as FastAPI checks and documents them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Axis = Literal["x", "y", "z"]
Index = Annotated[int, Field(ge=0, le=2**31)]
Name = Annotated[str, Field(max_length=200)]
Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Number = Annotated[str, Field(min_length=1, max_length=40)]
Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Quality = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Grey = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]


class Message(BaseModel):
    """Base of all bodies: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class Mask(Message):
    """COCO's compressed RLE."""

    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    counts: Annotated[str, Field(max_length=2**24)]


class Window(Message):
    """Grey values that are shown as black and white."""

    low: Grey
    high: Grey

    @model_validator(mode="after")
    def _is_a_span(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low is not below high")
        return self


class Point(Message):
    """A click on the object, or on what it is not."""

    kind: Literal["point"]
    x: Coordinate
    y: Coordinate
    positive: bool = True


class Box(Message):
    """A box around the object, half-open."""

    kind: Literal["box"]
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate]


class Text(Message):
    """The name of the object, for models that take words."""

    kind: Literal["text"]
    text: Annotated[str, Field(min_length=1, max_length=200)]


class RoughMask(Message):
    """A rough outline of the object."""

    kind: Literal["mask"]
    mask: Mask


PromptPart = Annotated[Point | Box | Text | RoughMask, Field(discriminator="kind")]


class View(Message):
    """The slice on screen."""

    axis: Axis
    index: Index


class _Action(Message):
    view: View | None = None


class OnSlice(_Action):
    """An action on one slice."""

    axis: Axis
    index: Index


class Create(_Action):
    """Makes an object."""

    kind: Literal["create"]
    name: Name = ""
    colour: Colour | None = None


class Update(_Action):
    """Changes what an object is called and how it is shown."""

    kind: Literal["update"]
    object: Number
    name: Name | None = None
    colour: Colour | None = None
    locked: bool | None = None
    hidden: bool | None = None


class Delete(_Action):
    """Deletes an object."""

    kind: Literal["delete"]
    object: Number


class PromptAction(OnSlice):
    """Says something about an object, or takes it back, and asks the model."""

    kind: Literal["prompt"]
    object: Number | None = None
    add: Annotated[list[PromptPart], Field(max_length=100)] = []
    remove: Annotated[list[Number], Field(max_length=1000)] = []
    window: Window | None = None
    name: Name = ""
    colour: Colour | None = None


class Choose(OnSlice):
    """Takes another of the model's candidates."""

    kind: Literal["choose"]
    object: Number
    candidate: Annotated[int, Field(ge=0, le=100)]


class Draw(OnSlice):
    """Replaces the mask of a slice by one that was drawn; on what was there at a revision, if that is given."""

    kind: Literal["mask"]
    object: Number
    mask: Mask
    revision: Annotated[int, Field(ge=0)] | None = None
    tool: Annotated[str, Field(max_length=40)] = "brush"


class Clear(OnSlice):
    """Empties a slice of an object."""

    kind: Literal["clear"]
    object: Number


class Proposal(Message):
    """A proposal of everything mode that was accepted."""

    mask: Mask
    quality: Quality | None = None
    name: Name = ""
    colour: Colour | None = None


class Accept(OnSlice):
    """Makes an object of each proposal."""

    kind: Literal["accept"]
    proposals: Annotated[list[Proposal], Field(min_length=1, max_length=1000)]


class Mark(_Action):
    """Says whether the annotator is done with the image."""

    kind: Literal["state"]
    done: bool


class Undo(_Action):
    """Takes the last action back."""

    kind: Literal["undo"]


class Redo(_Action):
    """Does again what was taken back last."""

    kind: Literal["redo"]


Action = Annotated[
    Create | Update | Delete | PromptAction | Choose | Draw | Clear | Accept | Mark | Undo | Redo,
    Field(discriminator="kind"),
]


class Prepare(Message):
    """A slice that will be asked about soon."""

    axis: Axis = "z"
    index: Index = 0
    window: Window | None = None


class Everything(Message):
    """Asks for proposals of all that a slice shows."""

    axis: Axis = "z"
    index: Index = 0
    window: Window | None = None
    side: Annotated[int, Field(ge=1, le=64)] = 16
    quality: Quality | None = None
    stability: Quality | None = None


class PropagationLimits(Message):
    """What may be said otherwise than `vesalius.predict.propagation_rules.PropagationRules` says."""

    margin: Annotated[float, Field(ge=0, le=10)] | None = None
    least_margin: Annotated[float, Field(ge=0, le=1e6)] | None = None
    trend: Annotated[float, Field(ge=0, le=1e6)] | None = None
    least_area: Annotated[int, Field(ge=1, le=2**31)] | None = None
    most_change: Annotated[float, Field(gt=1, le=1e6)] | None = None
    least_overlap: Quality | None = None
    least_quality: Quality | None = None
    least_grey: Annotated[float, Field(ge=-1e6, le=1)] | None = None
    least_contrast: Annotated[float, Field(ge=-1e6, le=1)] | None = None


class Propagate(Message):
    """Carries an object through a volume."""

    object: Number
    axis: Axis = "z"
    first: Index | None = None
    last: Index | None = None
    window: Window | None = None
    rules: PropagationLimits = PropagationLimits()


Collection = Literal["corpus", "coco", "labels", "prompts"]


class Export(Message):
    """Writes what was annotated to a folder."""

    format: Collection
    states: Annotated[list[Literal["todo", "begun", "done"]], Field(min_length=1)] = ["done"]
