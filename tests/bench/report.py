"""Tables, targets, and the ratios of earlier runs."""
import json
import os
import statistics

HERE = os.path.dirname(os.path.abspath(__file__))
STORED = os.path.join(HERE, "ratios.json")
WORSE = 1.2
REFERENCE_LOGIN_MS = 1.05       # CPU of the floor's login with a full handshake where the limits in milliseconds were set


def number(x):
    if x is None:
        return "-"
    if x == 0 or abs(x) >= 1000:
        return "{:,.0f}".format(x)
    return "%.0f" % x if abs(x) >= 100 else "%.1f" % x if abs(x) >= 10 else "%.2f" % x if abs(x) >= 1 else "%.3f" % x


def spread(values):
    """Median, and minimum and maximum where there is more than one value."""
    if len(values) < 2:
        return number(values[0]) if values else "-"
    return "%s (%s-%s)" % (number(statistics.median(values)), number(min(values)), number(max(values)))


def paired(ours, theirs):
    """The median of the ratios of runs made one after the other."""
    return statistics.median([a / b for a, b in zip(ours, theirs)])


class Report:
    def __init__(self, judged):
        self.judged, self.ratios, self.lines = judged, {}, []
        self.stored = {}
        if os.path.exists(STORED):
            with open(STORED) as f:
                self.stored = json.load(f)

    def title(self, text):
        print("\n%s\n%s" % (text, "-" * len(text)), flush=True)

    def note(self, text):
        print(text, flush=True)

    def table(self, head, rows):
        cells = [list(head)] + [[c if isinstance(c, str) else number(c) for c in row] for row in rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        for row in cells:
            print("  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]), flush=True)

    def target(self, row, what, value, relation, limit, comparable=True):
        """relation is "<=" or ">="; a value is kept under the row's name and what, if another machine's can be compared with it (no times)."""
        key = "%s: %s" % (row, what)
        if comparable:
            self.ratios[key] = value
        met = value <= limit if relation == "<=" else value >= limit
        line = "%-62s %8s  target %s %s" % (key, number(value), relation, number(limit))
        line += "  " + ("ok" if met else "missed") if self.judged else "  (not judged)"
        before = self.stored.get(key)
        if self.judged and before and max(value / before if relation == "<=" else before / value, 0) > WORSE:
            line += "  WORSE than the stored %s by more than 20 %%" % number(before)
        self.lines.append(line)
        print(line, flush=True)

    def against_login(self, row, what, ms, login_ms, limit_ms):
        """CPU of a mailbox: as it is, and against the floor's login of this run, which is what can be compared with other machines."""
        self.target(row, "CPU ms, " + what, ms, "<=", limit_ms, comparable=False)
        self.target(row, "CPU against the floor's login, " + what, ms / login_ms, "<=", limit_ms / REFERENCE_LOGIN_MS)

    def summary(self):
        self.title("Targets")
        for line in self.lines:
            print(line)

    def store(self):
        with open(STORED, "w") as f:
            json.dump({**self.stored, **{k: round(v, 4) for k, v in self.ratios.items()}}, f, indent=1, sort_keys=True)
            f.write("\n")
