#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""A world in which everything outside of us happens one thing at a time.

Actors are threads of processes on several nodes; each is a greenlet. Whatever
they ask of the outside (Ceph, Glance's database, the clock) passes through
``step()``, where a seeded scheduler decides who goes on, who pauses as a node
does whose hypervisor is busy, and who dies. The clock only moves when it is
told to, so hours pass in milliseconds, and a seed is a run that can be looked
at again.
"""

import random

import greenlet

# Ceph takes a client that has said nothing for so long for gone.
WATCH_SECONDS = 30


# There are so many, each with a disk of its own.
NODES = (0, 1)


class Over(BaseException):
    """The run has ended; nothing that is still under way may do more."""


class Process:
    """What threads have in common: they pause and die together."""

    def __init__(self, mortal, node):
        self.mortal = mortal
        self.node = node
        self.dead = False
        self.died_at = self.paused_at = self.paused_until = 0
        # Nothing has come between it and its work.
        self.undisturbed = True
        # Ids of requests and tasks that it still answers and runs.
        self.under_way = set()
        # What a module of ours keeps for a process.
        self.adopted = {}
        self.watches = {}

    def is_heard_of(self, now):
        """Whether Ceph still believes that it is there."""
        if self.dead:
            return now < self.died_at + WATCH_SECONDS
        return (self.paused_until <= now
                or now < self.paused_at + WATCH_SECONDS)


class Actor:
    """A thread: it runs, sleeps, and ends."""

    def __init__(self, world, name, work, process):
        self.name = name
        self.process = process
        self.done = False
        self.wakes_at = world.now
        self.error = None
        self._work = work
        self._greenlet = greenlet.greenlet(self._run, world.main)

    def _run(self):
        try:
            self._work()
        except Over:
            pass
        except Exception as e:
            self.error = e
        self.done = True

    def switch(self):
        self._greenlet.switch()

    def end(self):
        if not self.done and self._greenlet:
            self._greenlet.throw(Over)

    @property
    def ready_at(self):
        return max(self.wakes_at, self.process.paused_until)


class Lock:
    """One of threading's, that lets the scheduler go on while it waits."""

    def __init__(self, world):
        self._world = world
        self._held = False

    def acquire(self, timeout=-1):
        while self._held:
            if 0 <= timeout <= 1:
                return False
            self._world.sleep(1)
            timeout -= 1 if timeout > 0 else 0
        self._held = True
        return True

    def release(self):
        self._held = False

    def __enter__(self):
        self.acquire()

    def __exit__(self, *_):
        self.release()


class World:
    """The scheduler, the clock, and what has happened."""

    def __init__(self, seed, pauses=0.02, deaths=0.01):
        self.random = random.Random(seed)       # noqa: S311
        self.now = 1_000_000.0
        self.main = greenlet.getcurrent()
        self.actors = []
        self.actor = None
        self.log = []
        self.is_over = False
        self._pauses, self._deaths = pauses, deaths
        # Whether Ceph and the database have bad days as well.
        self._failures = self.random.choice((0, 0, 0.02))
        self._on_switch = lambda actor: None

    def on_switch(self, call):
        """Have a function called with each actor that goes on."""
        self._on_switch = call

    def add(self, name, work, mortal=True, process=None):
        actor = Actor(self, name, work, process or Process(
            mortal, self.random.choice(NODES)))
        self.actors.append(actor)
        return actor

    def step(self, what):
        """Something outside is about to happen."""
        if self.is_over:
            raise Over
        if self.actor is None:      # those who look at the end
            return
        self.log.append((round(self.now, 1), self.actor.name, what))
        if self.actor.process.mortal:
            self._disturb(self.actor.process)
        self._leave()

    def fails(self):
        """Whether something outside does not work, for whoever is at work."""
        if (self.actor is None or not self.actor.process.mortal
                or self.random.random() >= self._failures):
            return False
        self.log.append((self.now, self.actor.name, 'FAILS'))
        self.actor.process.undisturbed = False
        return True

    def _disturb(self, process):
        """Let a process die or pause, at times."""
        chance = self.random.random()
        if chance < self._deaths:
            process.dead, process.died_at = True, self.now
            self.log.append((self.now, self.actor.name, 'DIES'))
        elif chance < self._deaths + self._pauses:
            process.paused_at = self.now
            process.paused_until = self.now + self.random.choice(
                (1, 5, 20, 40, 100, 700, 1000, 4000))
            self.log.append((self.now, self.actor.name, 'PAUSES until',
                             process.paused_until))
        else:
            return
        process.undisturbed = False

    def sleep(self, seconds):
        if self.is_over:
            raise Over
        if self.actor is None:
            self.now += seconds
            return
        self.actor.wakes_at = self.now + seconds
        self._leave()

    def _leave(self):
        self.main.switch()
        if self.is_over:
            raise Over

    def run(self):
        """Let all actors go on until each is done or dead."""
        while True:
            living = [a for a in self.actors
                      if not (a.done or a.process.dead)]
            if not living:
                return
            ready = [a for a in living if a.ready_at <= self.now]
            if not ready:
                self.now = min(a.ready_at for a in living)
                continue
            self.actor = self.random.choice(ready)
            self._on_switch(self.actor)
            self.now += 0.01
            self.actor.switch()
            self.actor = None

    def end(self):
        """Nobody goes on from here."""
        self.is_over = True
        for actor in self.actors:
            actor.end()
