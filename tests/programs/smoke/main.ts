import * as fs from "fs";
import { createHash } from "crypto";
import { EventEmitter } from "events";

interface Shape { area(): number }
class Circle implements Shape {
  constructor(private readonly radius: number) {}
  area(): number { return Math.PI * this.radius ** 2; }
}
const shapes: Shape[] = [new Circle(1), new Circle(2)];
const total = shapes.reduce((sum, shape) => sum + shape.area(), 0);
const emitter = new EventEmitter();
emitter.on("x", (value: number) => { if (value !== 1) throw new Error("no"); });
emitter.emit("x", 1);
fs.writeFileSync("/tmp/file", createHash("md5").update(String(total)).digest("hex"));
if (fs.readFileSync("/tmp/file", "utf8").length !== 32) throw new Error("no");
async function later<T>(value: T): Promise<T> {
  return new Promise((resolve) => setTimeout(() => resolve(value), 5));
}
const [line] = fs.readFileSync(0, "utf8").split("\n");
console.log(line, ...process.argv.slice(2));
later("done").then(console.log);
