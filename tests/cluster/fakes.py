"""Ray without processes: calls answer at once, or when a test says so."""

from types import SimpleNamespace

from tcertify.cluster.worker import Begun, Outcome


class Lost(Exception):
    """What Ray raises where a worker is gone."""


class Ref:
    """A call; `late` never ends."""

    def __init__(self, get):
        self.get, self.late = get, False


class Actor:
    """A worker whose answers a test decides: `answer(method, *arguments)` returns or raises."""

    def __init__(self, answer, number):
        self._answer, self.number = answer, number

    def __getattr__(self, method):
        def remote(*arguments):
            if method == "name":
                facts = {"host": "here", "pid": self.number}
                return Ref(lambda: facts)
            if method == "begin":
                begun = Outcome("", value=Begun({}, {}, [], 1))
                return Ref(lambda: begun)
            return Ref(lambda: self._answer(self.number, method, *arguments))

        return SimpleNamespace(remote=remote)


class FakeRay:
    """What the pool uses of Ray's module."""

    exceptions = SimpleNamespace(RayError=Lost)

    def __init__(self, answer):
        self._answer, self._count = answer, 0
        self.killed = []

    def spawn(self):
        self._count += 1
        return Actor(self._answer, self._count)

    def wait(self, refs, timeout):
        ready = [ref for ref in refs if not ref.late]
        return ready[:1], []

    def get(self, ref):
        return ref.get()

    def kill(self, actor):
        self.killed.append(actor.number)
