"""Run `dgflow rm ROOT/STEP`, and print the result."""

from dgflow.cli.guard import print_json
from dgflow.cli.root import existing_root
from dgflow.engine.removal import at_work, doomed, remove
from dgflow.report.pages import drop_pages
from dgflow.store.address import is_root, names_range, split_address, step_name, step_names
from dgflow.store.open import open_store

_SHOWN = 3  # names of steps per line


def remove_step(address: str, *, yes: bool, json: bool) -> int:
    """Show the step and the steps made from it, and with `yes` remove them; returns the exit status.

    Raises ValueError if the address is not a step, and if an active run needs one of the steps.
    """
    if names_range(address):
        raise ValueError(
            f"expected ROOT/STEP without a range, found {address}; a step can only be removed as a whole"
        )
    if is_root(address):
        steps = ", ".join(step_names(open_store(address))) or "it has none"
        raise ValueError(
            f"expected ROOT/STEP, found the root {address} itself; add the name of one of its steps: {steps}"
        )
    root, name = split_address(address)
    store = existing_root(root)
    steps = doomed(store, step_name(store, name))
    objects, size = sum(len(each.entries) for each in steps), sum(each.bytes for each in steps)
    running = at_work(store, steps)
    if running and yes:
        raise ValueError(
            f"expected no active run that needs {steps[-1].step} or a step made from it, found "
            f"{'; '.join(running)}; stop it first, or wait until it ends"
        )
    if yes:
        remove(store, steps)
        drop_pages(store, {each.step for each in steps})
    print(f"{'removed' if yes else 'would remove'} from {store.url}, in this order:")
    for each in steps:
        more = f" and {len(each.reads) - _SHOWN} more" if len(each.reads) > _SHOWN else ""
        made_from = f", made from {', '.join(each.reads[:_SHOWN])}{more}" if each.reads else ""
        print(f"  {each.step}: {len(each.entries):,} objects, {each.bytes / 1e6:,.1f} MB{made_from}")
    print(
        f"{len(steps):,} step{'s' if steps[1:] else ''}, {objects:,} objects ({size / 1e6:,.1f} MB)"
        + ("" if yes else "; nothing was removed; add --yes to remove it")
    )
    for each in running:
        print(f"an active run needs it; stop the run first: {each}")
    if json:
        listed = [
            {"step": each.step, "reads": each.reads, "objects": len(each.entries), "bytes": each.bytes}
            for each in steps
        ]
        print_json({"deleted": yes, "objects": objects, "bytes": size, "steps": listed, "at_work": running})
    return 0
