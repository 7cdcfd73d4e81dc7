// Heads of the rows of `${name}`, four dimensions at a time: chunk c has dimensions 4c to 4c + 3, zeros past
// the last of ${dims}. Needs a binding `${name}: array<f32>`, rows of ${at.stride} numbers, the heads from number ${at.offset} on.
# set rotated = rope and name != "v"
# if rotated
// Pairs turn by the angle of the position: `angles` has cosine and sine of ${rope.dims // 2} pairs by position.
# endif

fn ${name}_number(head: u32, dimension: u32, position: u32) -> f32 {
# if dims % 4
    if (dimension >= ${dims}u) { return 0.0; }
# endif
    let number = ${name}[head + dimension];
# if rotated
# if rope.dims < dims
    if (dimension >= ${rope.dims}u) { return number; }
# endif
# if rope.style == "interleaved"
    let first = dimension % 2u == 0u;
    let other = ${name}[head + (dimension ^ 1u)];
    let turn = angles[position * ${rope.dims // 2}u + dimension / 2u];
# else
    let first = dimension < ${rope.dims // 2}u;
    let other = ${name}[head + select(dimension - ${rope.dims // 2}u, dimension + ${rope.dims // 2}u, first)];
    let turn = angles[position * ${rope.dims // 2}u + dimension % ${rope.dims // 2}u];
# endif
    return number * turn.x + select(other, -other, first) * turn.y;
# else
    return number;
# endif
}

fn ${name}_chunk(row: u32, head: u32, c: u32, position: u32) -> vec4<f32> {
    let at = row * ${at.stride}u + ${at.offset}u + head * ${dims}u;
    return vec4(
# for i in range(4)
        ${name}_number(at, 4u * c + ${i}u, position),
# endfor
    );
}
