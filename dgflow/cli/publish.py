"""The command `dgflow publish`."""

from dataclasses import asdict

from dgflow.cli.guard import print_json


def publish_step(
    source: str,
    target: str,
    *,
    epoch: str | None,
    licence: str | None,
    private: bool,
    replace: bool,
    json: bool,
) -> int:
    """Publish the weights or images of a step, and print the result; returns the exit status."""
    from dgflow.publish.publish import publish

    done = publish(source, target, epoch=epoch, licence=licence, private=private, replace=replace)
    where = target if done.commit is None else f"{target} at {done.commit}"
    if done.changed:
        print(f"{done.title} published to {where}, licence: {done.licence}")
    else:
        print(f"{done.title}: {where} is up to date")
    if done.url:
        print(done.url)
    if done.kind == "model":
        pinned = target if done.commit is None else f"{target}@{done.commit}"
        print(f'In a recipe: official("{pinned}")')
    if json:
        print_json(asdict(done))
    return 0
