"""A terminal that is good for one thing: it tells when a line wraps. And a program run in one of a given size."""
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
import unicodedata


class Screen:
    """What a terminal of `width` columns shows of the bytes it gets. `wraps` has each line that went over its end; `shown`
    each text that stood in a line when the cursor went back to its beginning or to the next line."""

    def __init__(self, width):
        self.width, self.column, self.line, self.wraps, self.shown, self.rest = width, 0, [], [], [], b""

    def feed(self, data):
        data = self.rest + data
        try:
            text, self.rest = data.decode(), b""
        except UnicodeDecodeError as error:
            if error.end < len(data): raise
            text, self.rest = data[:error.start].decode(), data[error.start:]
        i = 0
        while i < len(text):
            c = text[i]
            i += 1
            if c == "\x1b":
                if text[i:] in ("", "["):  # the rest comes with the next bytes
                    self.rest = text[i - 1:].encode() + self.rest
                    return
                if not text[i:].startswith("[K"): raise ValueError(f"an escape that is not ours: {text[i - 1:i + 8]!r}")
                i += 2
                del self.line[self.column:]
            elif c in "\r\n":
                self.shown.append("".join(self.line).rstrip())
                self.column = 0
                if c == "\n": self.line = []
            elif ord(c) < 32 or 127 <= ord(c) < 160:
                raise ValueError(f"a control character: {c!r}")
            else:
                self.put(c)

    def put(self, c):
        size = 0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        if self.column + size > self.width:
            self.wraps.append("".join(self.line) + c)
            self.line, self.column = [], 0
        self.line[self.column:self.column + size] = [c] + [""] * (size - 1)
        self.column += size


def run_on_screen(command, width, height=24, seconds=200, resize=None, **more):
    """Runs in a terminal. `resize`: (text, width): the size is changed when the text has come. Returns the screen and
    the exit status."""
    leader, follower = pty.openpty()
    modes = termios.tcgetattr(follower)
    modes[1] &= ~termios.OPOST  # no \r is added to a \n
    termios.tcsetattr(follower, termios.TCSANOW, modes)

    def resized(columns):
        fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))

    resized(width)
    process = subprocess.Popen([str(x) for x in command], stdout=follower, stderr=follower, stdin=subprocess.DEVNULL, **more)
    os.close(follower)
    screen, end = Screen(width), time.time() + seconds
    while True:
        if time.time() > end:
            process.kill()
            raise AssertionError(f"{command}: not done in {seconds} s")
        if not select.select([leader], [], [], 1)[0]: continue
        try:
            data = os.read(leader, 4096)
        except OSError:
            break
        if not data: break
        screen.feed(data)
        if resize and any(resize[0] in text for text in screen.shown):
            resized(resize[1])
            resize = None
    os.close(leader)
    return screen, process.wait()
