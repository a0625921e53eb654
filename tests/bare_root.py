#!/usr/bin/python3
"""bare_root.py DIR DEPENDENCIES: a Debian as bare as can be, in the empty DIR, out of what this machine has installed.

The files of the essential packages, of those in DEPENDENCIES (written as in a Depends field), and of what these depend on;
dpkg's database with those only. Nothing is downloaded. Documentation and translations stay behind."""
import os
import re
import shutil
import subprocess
import sys

DPKG = "/var/lib/dpkg"
LEFT_OUT = re.compile(r"/usr/share/(doc|man|locale|info)/")


def installed():
    """Name: its paragraph of dpkg's status, as a dictionary with the paragraph itself as TEXT. Provided names stand for the provider."""
    native = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    packages, provided = {}, {}
    with open(DPKG + "/status", encoding="utf-8") as f:
        paragraphs = f.read().split("\n\n")
    for text in paragraphs:
        fields = dict(re.findall(r"(?m)^([A-Za-z-]+): (.*)$", text), TEXT=text)
        if fields.get("Status") == "install ok installed" and fields["Architecture"] in (native, "all"):
            packages[fields["Package"]] = fields
            for name in re.findall(r"([a-z0-9.+-]+)[^,]*", fields.get("Provides", "")):
                provided[name] = fields
    return {**provided, **packages}


def depended_on(packages, dependencies):
    """The closure: names of packages, each dependency met by the first alternative that is installed here."""
    chosen, todo = {}, [",".join([dependencies] + [n for n, p in packages.items() if p.get("Essential") == "yes"])]
    while todo:
        for dependency in filter(str.strip, todo.pop().split(",")):
            names = [re.match(r"\s*([a-z0-9.+-]+)", alternative).group(1) for alternative in dependency.split("|")]
            package = next((packages[n] for n in names if n in packages), None)
            if package is None:
                sys.exit("bare_root: not installed on this machine: %s" % dependency.strip())
            if package["Package"] not in chosen:
                chosen[package["Package"]] = package
                todo += [package.get("Depends", ""), package.get("Pre-Depends", "")]
    return chosen


def copy_files(paths, directory):
    """Paths are of before the merge of /bin into /usr/bin: each goes where it really is."""
    real = {os.path.join(os.path.realpath(os.path.dirname(p)), os.path.basename(p)).lstrip("/") for p in paths}
    names = "\0".join(sorted(p for p in real if os.path.lexists("/" + p))) + "\0"
    read = subprocess.Popen(["tar", "-C", "/", "--no-recursion", "--null", "-cf", "-", "-T", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    write = subprocess.Popen(["tar", "-C", directory, "-xpf", "-"], stdin=read.stdout)
    read.stdin.write(names.encode())
    read.stdin.close()
    if write.wait() != 0 or read.wait() != 0:
        sys.exit("bare_root: tar failed")


def main(directory, dependencies):
    chosen = depended_on(installed(), dependencies)
    info = os.path.join(directory, DPKG.lstrip("/"), "info")
    os.makedirs(info)
    os.makedirs(os.path.join(directory, DPKG.lstrip("/"), "updates"))
    paths = []
    for file in os.listdir(DPKG + "/info"):
        if file == "format" or re.match(r"(.*?)(:\w+)?\.\w+$", file).group(1) in chosen:
            shutil.copy2(os.path.join(DPKG, "info", file), info)
            if file.endswith(".list"):
                with open(os.path.join(DPKG, "info", file), encoding="utf-8") as f:
                    paths += [p for p in f.read().split("\n") if p and not LEFT_OUT.match(p)]
    with open(os.path.join(info, "..", "status"), "w", encoding="utf-8") as f:
        f.write("\n\n".join(p["TEXT"].strip("\n") for p in chosen.values()) + "\n")
    for link in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink("/" + link):
            os.symlink(os.readlink("/" + link), os.path.join(directory, link))
    copy_files(paths, directory)
    # What maintainer scripts would have made.
    for file in ("passwd", "group"):
        shutil.copy(os.path.join(directory, "usr/share/base-passwd", file + ".master"), os.path.join(directory, "etc", file))
    subprocess.run(["ldconfig", "-r", directory], check=True)
    subprocess.run(["chroot", directory, "dpkg", "--triggers-only", "-a"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


main(*sys.argv[1:])
