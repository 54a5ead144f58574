"""`free_memory`: releases the memory that the CPU backend keeps between calls."""


def free_memory() -> None:
    """Give the memory that srwm keeps between calls back to the system.

    On the CPU, later calls reuse the memory of large results, of the data saved for backward, and of the
    working memory of calls: the page faults of new memory would take more time than many calls. At most 256
    MiB are kept while they are unused. This function gives all of that back, and forgets the plans of
    earlier calls, which grow with the number of sequences. Arrays in use are not touched.

    On GPUs, CuPy or PyTorch keep memory: ``cupy.get_default_memory_pool().free_all_blocks()``,
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
    from srwm._cy import cpu, recycled  # not at the top: importing srwm loads no kernel
    from srwm._plan import forget

    forget()  # plans hold arrays as long as there are sequences
    cpu.forget()
    recycled.release_idle()
