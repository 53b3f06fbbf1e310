"""The part of scripts/nettest about slow links: what the planner predicts is about what is measured."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from netlab import NetLab, check  # noqa: E402

RATE = 2.5e6  # bytes a second: 20 Mbit/s
MODEL = {"model": "{ type: mlp, hidden: [512, 256] }", "batch": "64", "lanes": "4"}
WAYS = {"sync": "sync", "int8": "int8", "diloco": "{ type: diloco, local_steps: 11 }"}


def slow_link_as_predicted():
    """Two hosts 20 Mbit/s apart: int8 and diloco beat sync by about the ratio that the planner predicted before; and the link is
    measured for what it carries from 80 ms away, too."""
    with NetLab("slowlink") as lab:
        a, b = lab.add_host("a"), lab.add_host("b")
        for one, other in ((a, b), (b, a)):
            lab.way(one, other, rate=RATE, delay=0.005)
        lab.trust(a, b)
        hosts = lab.entry(a) + lab.entry(b)
        lab.write(hosts, {**MODEL, "epochs": "2"})
        lab.digits()
        lab.coord("up", "-y", "--hosts-only")
        measured, predicted, accuracy = {}, {}, {}
        for kind, way in WAYS.items():
            lab.write(hosts, {**MODEL, "epochs": "3", "exchange": way})
            lab.coord("up", "-y", "--hosts-only")
            found = lab.json("preflight")
            rates = [line["bytes_per_second"] for line in found if line["type"] == "link" and line.get("bytes_per_second")]
            check(rates and max(rates) < 2 * RATE, f"the preflight measures {rates} bytes/s on a link of {RATE:.0f}")
            plan = {line["exchange"]["kind"]: line for line in found if line["type"] == "exchange"}
            predicted[kind] = plan[kind]["step_seconds"]
            check(not plan["sync"]["is_automatic"], f"auto would take sync: {plan['sync']}")
            lab.coord("up", "-y", timeout=600)
            run = lab.run()
            check(run["state"] == "finished", f"{kind}: {run['state']}: {run['message']}")
            measured[kind] = 64 / run["samples_per_second"]
            accuracy[kind] = run["best"]["val_accuracy"]
        said = []
        for kind in ("int8", "diloco"):
            real, expected = measured["sync"] / measured[kind], predicted["sync"] / predicted[kind]
            said.append(f"{kind} {real:.2f} times as fast as sync, predicted {expected:.2f}")
            check(real > 1.5 and 0.5 < real / expected < 2, f"{said[-1]}; seconds a step {measured}, predicted {predicted}")
        for one, other in ((a, b), (b, a)):
            lab.way(one, other, delay=0.04)
        far = [line["bytes_per_second"] / RATE for line in lab.json("preflight") if line["type"] == "link"]
        check(len(far) == 2 and all(0.7 < part < 1.2 for part in far), f"80 ms away the preflight measures {far} of the link's rate")
        return "; ".join(said) + f"; sync {measured['sync'] * 1000:.0f} ms a step, predicted {predicted['sync'] * 1000:.0f}; accuracy {accuracy}"


SLOW = [slow_link_as_predicted]
