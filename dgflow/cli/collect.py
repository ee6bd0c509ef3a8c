"""Run `dgflow gc ROOT` and `python RECIPE.py gc`, and print the result."""

from dgflow.cli.guard import print_json
from dgflow.engine.gc import collect
from dgflow.store.objects import ObjectStore


def collect_garbage(store: ObjectStore, *, yes: bool, json: bool) -> int:
    """Show unreferenced objects, and with `yes` remove them; returns the exit status."""
    collected = collect(store, delete=yes, tell=print)
    objects = "1 object" if collected.number == 1 else f"{collected.number:,} objects"
    print(f"{'removed' if yes else 'would remove'} {objects} ({collected.bytes / 1e6:,.1f} MB)")
    for line in collected.left:
        print(f"  not touched: {line}")
    for key in collected.restored:
        print(f"  restored, because a run committed it meanwhile: {key}")
    if collected.number and not yes:
        print("nothing was removed; add --yes to remove it")
    if json:
        steps = [
            {"step": each.step, "data": len(each.data), "notes": len(each.notes), "bytes": each.bytes}
            for each in collected.steps
        ]
        totals = {"deleted": yes, "objects": collected.number, "bytes": collected.bytes}
        print_json(totals | {"steps": steps, "not_touched": collected.left})
    return 0
