"""The plan itself: is the budget the recipe's, and do model and data fit together?"""

from __future__ import annotations

from bit_keras.health.finding import Finding
from bit_keras.health.plan import Plan
from bit_keras.presets import get_preset
from bit_keras.upstream import pretrain_recipe

ENOUGH = 0.95  # of the recipe's images; rounding of steps takes less


def _images(plan: Plan) -> str:
    epochs = f"{plan.epochs:.3g} epochs, " if plan.epochs else ""
    return f"{epochs}{plan.steps:,} steps of {plan.batch_size:,}, {plan.images:,} images in all"


def budget(plan: Plan) -> Finding | None:
    """Does the run see as many images as the recipe says for its data? (paper, section 4.2)

    None where the recipe or the plan is not known.
    """
    paper = plan.paper
    if not plan.images or paper is None or not paper.images:
        return None
    share = plan.images / paper.images
    numbers = {"images": float(plan.images), "recipe": float(paper.images), "share": share}
    name = "HyperRule" if plan.kind == "fine-tuning" else "recipe"
    examples = f"for {plan.num_examples:,} examples" if plan.num_examples else "for this data"
    if share >= ENOUGH:
        more = "more than " if share > 2 - ENOUGH else ""
        return Finding(
            "budget",
            "good",
            f"The budget is {more}the {name}'s {examples}: {_images(plan)}.",
            numbers,
        )
    told = (
        "Fine for a trial; the rule's accuracy takes the rule's steps." if name == "HyperRule" else
        "A larger data set with too small a budget gives a worse model than a smaller one: train "
        "longer, or use less data."
    )  # fmt: skip
    return Finding(
        "budget", "note" if plan.kind == "fine-tuning" else "warning",
        f"The budget is {100 * share:.0f} % of the {name}'s {examples}: {_images(plan)}, not "
        f"{_images(paper)}. {told}", numbers,
    )  # fmt: skip


def warm_up(plan: Plan) -> Finding | None:
    """Does the learning rate get where it should? None when it does."""
    if not plan.steps or not plan.warmup_steps or not plan.learning_rate:
        return None
    end = min([plan.steps, *plan.boundaries])
    if plan.warmup_steps <= end:
        return None
    reached = plan.learning_rate * end / plan.warmup_steps
    event = "the first drop of the learning rate" if end < plan.steps else "the end of the run"
    return Finding(
        "warm-up", "warning",
        f"The warm-up of {plan.warmup_steps:,} steps is longer than the {end:,} until {event}: the "
        f"learning rate reaches {reached:.3g} instead of {plan.learning_rate:.3g}. Pass a smaller "
        "--warmup_steps, a smaller batch or more epochs.",
        {"warmup_steps": float(plan.warmup_steps), "end": float(end), "reached": reached},
    )  # fmt: skip


def scale(plan: Plan) -> Finding | None:
    """Is the model too large for its upstream data? (paper, section 4.1: scale both)

    None for a fine-tuning, and for data of the paper's sizes.
    """
    if plan.kind != "pre-training" or not plan.num_examples or not plan.model:
        return None
    smallest = pretrain_recipe("BiT-S")
    if plan.num_examples >= smallest.num_examples:
        return None
    # The most weights for an image that the paper trained from scratch: R152x4 on ILSVRC-2012.
    most = get_preset("BiT-S-R152x4").architecture.parameters() / smallest.num_examples
    weights = get_preset(plan.model).architecture.parameters()
    each = weights / plan.num_examples
    numbers = {"weights": float(weights), "weights_per_image": each, "most_in_paper": most}
    if plan.images:
        numbers["share_of_bit_s"] = plan.images / (smallest.steps * smallest.batch_size)
    seen = (
        f" The whole schedule shows {100 * numbers['share_of_bit_s']:.2g} % of the images that "
        "BiT-S sees: more data would give more than more epochs."
        if "share_of_bit_s" in numbers else ""
    )  # fmt: skip
    text = (
        f"{weights:,} weights learn from {plan.num_examples:,} images, {each:,.3g} for each; the "
        f"paper's smallest upstream set has {smallest.num_examples:,} images, and its models "
        f"between {_least(smallest.num_examples):.3g} and {most:.3g} weights for each of them."
    )
    if each > most:
        return Finding(
            "scale", "warning",
            f"{text} Scale model and data together: take a smaller model or more data.{seen}",
            numbers,
        )  # fmt: skip
    return Finding("scale", "note", f"{text}{seen}", numbers)


def _least(images: int) -> float:
    return get_preset("BiT-S-R50x1").architecture.parameters() / images
