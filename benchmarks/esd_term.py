"""How much ESD differs from VSD along a run: the size of the term that it adds to VSD's direction.

    python benchmarks/esd_term.py [--prompt "a purple owl"] [--iterations 160] [key=value ...]

ESD is VSD plus ``lambda (eps_student(camera) - eps_student(no camera))``. The term is the student's knowledge of how
views differ; where all views look alike it is nothing, and then nothing leads away from there. Prints, for every eighth
of a run of ``guidance=esd`` under the benchmark's blind teacher, the RMS of both parts (in x0, where the weights of the
noise levels cancel) and their ratio.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="a purple owl")
    parser.add_argument("--iterations", type=int, default=160)
    parser.add_argument("overrides", nargs="*", help="key=value, as for threedistill generate")
    options = parser.parse_args()

    from threedistill.config import compose
    from threedistill.toybox.bench.parts import ESD_BLIND
    from threedistill.training.assemble import build_prior, build_stages
    from threedistill.training.planning import build_plan

    lines = [*ESD_BLIND.overrides, f"budget.iterations={options.iterations}", *options.overrides]
    plan = build_plan(compose(prompt=options.prompt, overrides=lines))
    system = build_stages(plan, build_prior(plan, torch.device("cpu")))[0]
    optimizers = system.configure_optimizers()
    system.optimizers = lambda use_pl_optimizer=False: optimizers
    system.manual_backward = lambda loss: loss.backward()

    rule = system.guidance.rule
    seen: list[tuple[float, float]] = []

    class Watched:
        """The rule, which also notes the sizes of its parts."""

        cfg, queries = rule.cfg, staticmethod(rule.queries)

        def __call__(self, evidence, progress):
            own, blind = evidence["student"].x0, evidence["student blind"].x0
            vsd = own - rule.cfg.guided(evidence, progress).x0
            seen.append((float(vsd.square().mean()), float((own - blind).square().mean())))
            return rule(evidence, progress)

    system.guidance = replace(system.guidance, rule=Watched())
    print("progress   teacher - student   student - blind   ratio")
    for index in range(options.iterations):
        system.training_step(index)
        if (index + 1) % max(options.iterations // 8, 1) == 0:
            vsd, term = torch.tensor(seen).mean(0).sqrt().tolist()
            progress = (index + 1) / options.iterations
            print(f"{progress:8.2f}   {vsd:17.3f}   {term:15.3f}   {term / vsd:5.2f}", flush=True)
            seen.clear()


if __name__ == "__main__":
    main()
