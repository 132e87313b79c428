"""How functions that kernels call are compiled: to LLVM's language, and no further.

Numba optimizes a function at each level of calls, and makes machine code even of one that all its callers have taken
in. What is always inlined needs neither: a kernel is optimized once, with all that it calls.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

__all__ = ["InlinedCompiler"]


class _InlinedLibrary(JITCodeLibrary):
    """The code of a function and of those it calls, to be linked into a kernel's and never run."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, env_name: str, env: Any) -> None:
        """There is no machine code that could look for its Python globals."""


class InlinedCompiler(Compiler):
    """Numba's compiler for functions that are always inlined, and that only compiled functions call."""

    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *rest: Any) -> None:
        super().__init__(typingctx, targetctx, library or _InlinedLibrary(targetctx.codegen(), "inlined"), *rest)
