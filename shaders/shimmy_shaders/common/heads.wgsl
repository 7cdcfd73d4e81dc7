// Heads of the rows of `${name}`, four dimensions at a time: chunk c has dimensions 4c to 4c + 3, zeros past
// the last of ${dims}. Needs a binding `${name}: array<f32>`, rows of ${at.stride} numbers, the heads from number ${at.offset} on.
# set rotated = rope and name != "v"
# if rotated
// Pairs turn by the angle of the position: `angles` has cosine and sine of ${rope.dims // 2} pairs by position.
# endif
# set normed = norms is defined and norms[name] is not none
# if normed
// Before, heads are normed: the including shader says by `${name}_factor`, and `${name}_weight` is bound.
# endif
# macro number(dimension)
${name}[head + ${dimension}]${" * factor * %s_weight[%s]" % (name, dimension) if normed}
# endmacro

fn ${name}_number(head: u32, dimension: u32, position: u32${", factor: f32" if normed}) -> f32 {
# if dims % 4
    if (dimension >= ${dims}u) { return 0.0; }
# endif
    let number = ${number("dimension")};
# if rotated
# if rope.dims < dims
    if (dimension >= ${rope.dims}u) { return number; }
# endif
# if rope.style == "interleaved"
    let first = dimension % 2u == 0u;
    let other = ${number("(dimension ^ 1u)")};
    let turn = angles[position * ${rope.dims // 2}u + dimension / 2u];
# else
    let first = dimension < ${rope.dims // 2}u;
    let pair = select(dimension - ${rope.dims // 2}u, dimension + ${rope.dims // 2}u, first);
    let other = ${number("pair")};
    let turn = angles[position * ${rope.dims // 2}u + dimension % ${rope.dims // 2}u];
# endif
    return number * turn.x + select(other, -other, first) * turn.y;
# else
    return number;
# endif
}

fn ${name}_chunk(row: u32, head: u32, c: u32, position: u32) -> vec4<f32> {
    let at = row * ${at.stride}u + ${at.offset}u + head * ${dims}u;
# if normed
    let factor = ${name}_factor(head);
# endif
    return vec4(
# for i in range(4)
        ${name}_number(at, 4u * c + ${i}u, position${", factor" if normed}),
# endfor
    );
}
