# SPDX-License-Identifier: MIT OR Apache-2.0
"""That netgpu.pyi tells of what the module has, no more and no less, with the same parameters; and that all of it has a text."""

import ast
import inspect
import os

import netgpu

# What any object has, and what Python makes of others.
IMPLIED = set(dir(object)) | {"__module__", "__doc__"}
IMPLIED -= {"__new__"}


def parameters(node):
    arguments = node.args
    names = [a.arg for a in arguments.posonlyargs + arguments.args]
    defaults = [None] * (len(names) - len(arguments.defaults)) + arguments.defaults
    found = list(zip(names, defaults)) + list(zip((a.arg for a in arguments.kwonlyargs), arguments.kw_defaults))
    return {name: default and ast.unparse(default) for name, default in found if name not in ("self", "cls")}


def told():
    with open(os.path.join(os.path.dirname(__file__), "netgpu.pyi")) as stub:
        tree = ast.parse(stub.read())
    names = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = {member.name: member for member in node.body}
        elif isinstance(node, ast.AnnAssign):
            names[node.target.id] = None
    return names


def compare(what, module, stub):
    assert module == stub, f"{what}: only in the module {module - stub}, only in the stub {stub - module}"


def main():
    stub = told()
    compare("names", {name for name in dir(netgpu) if not name.startswith("__")} | {"__version__"}, set(stub))
    for name, members in stub.items():
        if members is None:
            continue
        found = getattr(netgpu, name)
        assert found.__doc__, f"{name} has no text"
        made = {"__new__"} if found.__new__ is not object.__new__ else set()
        ours = {member for member in vars(found) if member not in IMPLIED} | (made & set(members))
        compare(name, ours, set(members))
        for member, node in members.items():
            value = getattr(found, member)
            if member.startswith("__"):
                continue
            assert value.__doc__, f"{name}.{member} has no text"
            if callable(value):
                signature = inspect.signature(value)
                defaults = {
                    parameter.name: None if parameter.default is parameter.empty else repr(parameter.default)
                    for parameter in signature.parameters.values()
                    if parameter.name != "self"
                }
                expected = parameters(node)
                compare(f"{name}.{member}", set(defaults), set(expected))
                for parameter, default in expected.items():
                    if default != "...":
                        assert defaults[parameter] == default, f"{name}.{member}: {parameter} is {defaults[parameter]}, told {default}"


main()
