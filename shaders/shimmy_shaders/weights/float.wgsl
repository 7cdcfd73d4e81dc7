## Weights stored as floats of 32 or 16 bits, rows padded with zeros to whole blocks of 32 columns.

# macro bindings(layout, prefix, first)
@group(0) @binding(${first}) var<storage, read> ${prefix}_values_of: array<${layout.parts[0].element}>;
# endmacro

# macro functions(layout, prefix, columns)
# set eighths = (columns + 31) // 32 * 4
# set stored = "array<vec4<f32>, 2>" if layout.name == "f32" else "vec4<u32>"
// What is stored of the 8 columns from 8 * eighth on, and the weights that it is.
fn ${prefix}_load_eight(row: u32, eighth: u32) -> ${stored} {
    let i = row * ${eighths}u + eighth;
# if layout.name == "f32"
    return array<vec4<f32>, 2>(${prefix}_values_of[2u * i], ${prefix}_values_of[2u * i + 1u]);
# else
    return ${prefix}_values_of[i];
# endif
}
fn ${prefix}_eight_of(stored: ${stored}) -> array<vec4<f32>, 2> {
# if layout.name == "f32"
    return stored;
# elif layout.name == "f16"
    return array<vec4<f32>, 2>(
        vec4<f32>(unpack2x16float(stored.x), unpack2x16float(stored.y)),
        vec4<f32>(unpack2x16float(stored.z), unpack2x16float(stored.w)),
    );
# else
    // A bfloat16 is the upper half of a float.
    let even = bitcast<vec4<f32>>(stored << vec4<u32>(16u));
    let odd = bitcast<vec4<f32>>(stored & vec4<u32>(0xffff0000u));
    return array<vec4<f32>, 2>(vec4<f32>(even.x, odd.x, even.y, odd.y), vec4<f32>(even.z, odd.z, even.w, odd.w));
# endif
}

// The weights of the 32 columns from 32 * block on.
fn ${prefix}_values(row: u32, block: u32) -> array<vec4<f32>, 8> {
# for i in range(4)
    let e${i} = ${prefix}_eight_of(${prefix}_load_eight(row, 4u * block + ${i}u));
# endfor
    return array<vec4<f32>, 8>(e0[0], e0[1], e1[0], e1[1], e2[0], e2[1], e3[0], e3[1]);
}
# endmacro
