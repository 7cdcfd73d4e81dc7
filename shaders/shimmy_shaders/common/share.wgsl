## For each of `count` places, shared out among the invocations of a workgroup, what the call block says of it:
## the number of this one among those of an invocation, the place, and what to guard a write to it with.
# macro each(count, workgroup)
# for u in range((count + workgroup - 1) // workgroup)
# set place = "(li + %du)" % (u * workgroup)
    ${caller(u, place, "" if (u + 1) * workgroup <= count else "if (%s < %du) " % (place, count))}
# endfor
# endmacro

## What becomes of an invocation's sums, of the tile of y that begins at `row` and `column`; tile.wgsl says how.
# macro stored(tile, gated)
# for i, j in tile.results
# if not gated
    tile_store(row + ty + ${i * tile.down}u, column + tx + ${j * tile.across}u, sum${i}_${j});
# elif j < tile.each_columns // 2
    tile_store(row + ty + ${i * tile.down}u, column + tx + ${j * tile.across}u,
        sum${i}_${j}, sum${i}_${j + tile.each_columns // 2});
# endif
# endfor
# endmacro
