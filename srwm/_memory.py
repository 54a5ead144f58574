"""The memory that the CPU backend holds between calls."""


def free_memory() -> None:
    """Give the memory that is held between calls back to the system.

    Large results of calls on the CPU, what forward saves for backward, and the working memory of calls lie
    in memory that is used again by later calls: fresh memory would cost more time than many calls take. At
    most 256 MiB of it are held while nobody uses them. This call gives back all of that. Arrays in use are
    not touched.

    Memory on GPUs is CuPy's or PyTorch's: ``cupy.get_default_memory_pool().free_all_blocks()``,
    ``torch.cuda.empty_cache()``.

    Raises
    ------
    ImportError
        The kernels are not built; the message says what to do.

    Examples
    --------
    >>> import numpy as np, srwm
    >>> y = srwm.forward(np.ones((4000, 8)), np.ones((8, 28)))
    >>> del y
    >>> srwm.free_memory()
    """
    from srwm._cy.recycled import release_idle  # not at the top: importing srwm loads no kernel

    release_idle()
