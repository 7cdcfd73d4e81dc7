## For each of `count` places, shared out among the invocations of a workgroup, what the call block says of it:
## the number of this one among those of an invocation, the place, and what to guard a write to it with.
# macro each(count, workgroup)
# for u in range((count + workgroup - 1) // workgroup)
# set place = "(li + %du)" % (u * workgroup)
    ${caller(u, place, "" if (u + 1) * workgroup <= count else "if (%s < %du) " % (place, count))}
# endfor
# endmacro
