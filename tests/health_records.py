"""Settings of pre-trainings as their config.json has them, for the tests of health and report."""

from dataclasses import asdict

from bit_keras.upstream import pretrain_recipe


def settings(recipe):
    schedule = {name: getattr(recipe, name) for name in ("steps", "boundaries", "learning_rate")}
    return asdict(recipe) | schedule


def pretraining(model="BiT-S-R50x1", name="BiT-S", examples=1_281_167, **changes):
    """config.json of a pre-training."""
    paper = pretrain_recipe(name).override(num_examples=examples)
    recipe = settings(paper.override(**changes)) if changes else settings(paper)
    return {
        "options": {"model": model, "data": "tfds:clipart"},
        "recipe": recipe,
        "recipe_of_paper": settings(paper),
        "num_examples": examples,
    }
