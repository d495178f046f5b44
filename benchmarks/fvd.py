"""Takes the FVD that ``vidgen eval`` has measured of a suite's runs, with weights from elsewhere, into the suite's results.

    vidgen eval real=RUN:test fake=RUN protocol=run protocol.metric.ddof=0 extractor=i3d-styleganv extractor.path=FILE out=fvd
    python benchmarks/fvd.py SUITE fvd

The first is given once for each run, and its folder (``out=``) grows by a comparison each time; the second may be given at any
time and takes what is new.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import suite as suites
from collect import collect
from records import Record, append, read

from vidgen.cli.between import read_results
from vidgen.errors import UserError
from vidgen.evaluation.between import Comparison
from vidgen.evaluation.rows import Row

NAME = "samples/fvd"


def found(records: Sequence[Record], comparisons: Sequence[Comparison]) -> Iterator[Record]:
    """The distances of those comparisons whose generated clips are samples of runs that have ``records``.

    Raises:
        UserError: for an extractor that is not I3D, whose distance is no FVD, or a run that is not of the suite.
    """
    of_runs = {(record.origin.config, record.origin.seed): record for record in records if record.row.stage == "evaluation"}
    for one in comparisons:
        extractor = one.protocol.to_dict()["metric"]["extractor"]["extractor"]
        if extractor != "i3d":
            raise UserError(
                f"{one.fake} was measured with the extractor {extractor}, which is no FVD: give extractor=i3d-styleganv."
            )
        origin = collect(Path(one.fake))[0].origin
        run = of_runs.get((origin.config, origin.seed))
        if run is None:
            raise UserError(f"{one.fake} is no run of the suite: its recipe and seed have no figures there.")
        (distance,) = (result for result in one.results if result.name == "fake/frechet")
        yield Record(
            origin=run.origin,
            row=Row(
                stage="evaluation",
                split=run.row.split,
                step=run.row.step,
                seconds=run.row.seconds,
                name=NAME,
                value=distance.value,
                protocol=one.protocol.label,
                n=distance.n,
                interval=distance.interval,
            ),
        )


def add(path: Path, folder: Path) -> int:
    """Adds to the results at ``path`` what the evaluations in ``folder`` have measured and they lack; returns how many."""
    records = read(path)
    fresh = [record for record in found(records, read_results(folder)) if record not in records]
    append(path, fresh)
    return len(fresh)


def main(arguments: Sequence[str] | None = None) -> int:
    """Adds what there is; returns 2 after a mistake."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog="Then: python benchmarks/render.py")
    parser.add_argument("suite", help="its name, of benchmarks/suites")
    parser.add_argument("folder", type=Path, help="the folder that vidgen eval has written to (out=)")
    given = parser.parse_args(arguments)
    try:
        path = suites.load(given.suite).results
        print(f"{path}: {add(path, given.folder)} figures more")
    except UserError as error:
        print(f"fvd: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
