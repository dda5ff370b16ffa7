/* The page's sorting and filtering, without a browser: node page.test.js PAGE.JS */
"use strict";
const assert = require("assert");
const { compareCells, sortedOrder, isShown } = require(require("path").resolve(process.argv[2]));

/* numbers by value, not as text; missing ones last in both directions; equal ones in their order */
assert.deepStrictEqual(sortedOrder(["10", "9", "-2.5", "1e1"], true, false), [2, 1, 0, 3]);
assert.deepStrictEqual(sortedOrder(["10", null, "9", ""], true, false), [2, 0, 1, 3]);
assert.deepStrictEqual(sortedOrder(["10", null, "9", ""], true, true), [0, 2, 1, 3]);
/* texts with their numbers by value */
assert.deepStrictEqual(sortedOrder(["bank=128", "bank=16", "Bank=64", "act"], false, false), [3, 1, 2, 0]);
assert.ok(compareCells("b", "a", false, true) < 0 && compareCells("b", "a", false, false) > 0);

const row = { text: "banks W4A8 seed", grid: "banks", loss: 1.5, cost: null, front: false };
const all = { words: "", grid: "", loss: null, cost: null, front: false };
const shown = (change) => isShown(row, { ...all, ...change });
assert.ok(shown({}));
assert.ok(shown({ words: "  w4a8 BANKS " }) && !shown({ words: "w4a8 mask" }));
assert.ok(shown({ grid: "banks" }) && !shown({ grid: "bank" }));
assert.ok(shown({ loss: 1.5 }) && !shown({ loss: 1.4 }) && shown({ loss: 2 }));
assert.ok(!shown({ cost: 5 })); /* what has no cost is not below one */
assert.ok(!shown({ front: true }) && isShown({ ...row, front: true }, { ...all, front: true }));
