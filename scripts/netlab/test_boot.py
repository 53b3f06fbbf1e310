"""What comes back after a logout and a reboot, on machines with a real systemd."""


from common import FAST, agent_of
from netlab import NetLab, check, wait_for
from systemd import no_systemd


def logout_and_reboot():
    """With `boot: auto` an agent outlives the logout that ends another's, comes back after a reboot without a login, and `down` takes all away."""
    reason = no_systemd()
    if reason:
        return f"skipped: {reason}"
    with NetLab("boot", mtu=FAST) as lab:
        kept, plain = lab.add_systemd_host("kept"), lab.add_systemd_host("plain")
        lab.trust(kept, plain)
        lab.write(lab.entry(kept, extra=", boot: auto") + lab.entry(plain))
        lab.coord("up", "-y", "--hosts-only")
        notes = {line["host"]: " ".join(line["notes"]) for line in lab.json("status") if line["type"] == "host"}
        check("KillUserProcesses=yes" in notes["plain"] and "KillUserProcesses" not in notes["kept"], f"{notes}")
        agents = {host.name: agent_of(host) for host in (kept, plain)}
        check("/user@7700.service/" in kept.user_unit(agents["kept"]), kept.user_unit(agents["kept"]))
        check("/session-" in plain.user_unit(agents["plain"]), plain.user_unit(agents["plain"]))

        # All our logins end with it.
        lab.kill_coordinator()
        for host in (kept, plain):
            wait_for(f"{host.name} has nobody logged in", lambda host=host: not host.sessions(), 30)
        wait_for("logind ends the agent of the one without an entry", lambda: not agent_of(plain), 30)
        check(agent_of(kept) == agents["kept"], "logind ended the agent that has an entry")

        kept.power_off()
        check(not kept.processes(), "something survived the power cut")
        kept.power_on()
        back = wait_for("the agent is back without a login", lambda: agent_of(kept), 60)
        check(not kept.sessions() and "/user@7700.service/" in kept.user_unit(back), f"{kept.sessions()}, {kept.user_unit(back)}")
        lab.coord("up", "-y", "--hosts-only")
        check(agent_of(kept) == back, "another agent was started beside it")

        said = lab.coord("down", "-y").stderr
        check("lingering" in said and "the unit coord-agent-" in said, said)
        wait_for("no agent", lambda: not agent_of(kept), 10)
        units = kept.run("ls -A ~/.config/systemd/user ~/.config/systemd/user/*.wants 2>/dev/null; true")
        check("coord-agent" not in units and not list(kept.path("/var/lib/systemd/linger").iterdir()), f"left: {units}")
        kept.power_off()
        kept.power_on()
        check(not agent_of(kept), "an agent came back after coord down")
        return "logout: the entry's agent lives, the other's is ended by logind; reboot: back without a login; down: unit and lingering gone"

