// Compare two layers: the left one is clipped to the left of a divider, the right one to its right.
import L from "./leaflet.ts";

export class Swipe {
  private readonly handle: HTMLElement;
  private share = 0.5;
  private sides: [HTMLElement, HTMLElement] | null = null;

  constructor(private readonly map: L.Map) {
    this.handle = L.DomUtil.create("div", "gd-swipe", map.getContainer());
    this.handle.setAttribute("role", "slider");
    this.handle.setAttribute("aria-label", "Divider between the two compared layers");
    this.handle.setAttribute("aria-valuemin", "0");
    this.handle.setAttribute("aria-valuemax", "100");
    this.handle.tabIndex = 0;
    this.handle.hidden = true;
    L.DomEvent.disableClickPropagation(this.handle);
    this.handle.addEventListener("pointerdown", (event) => this.drag(event));
    this.handle.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      this.move(this.share + by);
    });
    map.on("move zoomend resize viewreset", () => this.clip());
  }

  compare(left: HTMLElement, right: HTMLElement): void {
    this.stop();
    this.sides = [left, right];
    this.handle.hidden = false;
    this.clip();
  }

  stop(): void {
    for (const pane of this.sides ?? []) pane.style.clipPath = "";
    this.sides = null;
    this.handle.hidden = true;
  }

  private move(share: number): void {
    this.share = Math.min(0.98, Math.max(0.02, share));
    this.clip();
  }

  private drag(event: PointerEvent): void {
    event.preventDefault();
    this.handle.setPointerCapture(event.pointerId);
    const box = this.map.getContainer().getBoundingClientRect();
    const follow = (moved: PointerEvent) => this.move((moved.clientX - box.left) / box.width);
    const end = () => {
      this.handle.removeEventListener("pointermove", follow);
      this.handle.removeEventListener("pointerup", end);
    };
    this.handle.addEventListener("pointermove", follow);
    this.handle.addEventListener("pointerup", end);
  }

  private clip(): void {
    if (!this.sides) return;
    const size = this.map.getSize();
    const at = Math.round(size.x * this.share);
    this.handle.style.left = `${at}px`;
    this.handle.setAttribute("aria-valuenow", String(Math.round(100 * this.share)));
    const low = this.map.containerPointToLayerPoint([0, 0]);
    const high = this.map.containerPointToLayerPoint(size);
    const middle = low.x + at;
    const box = (west: number, east: number) =>
      `polygon(${west}px ${low.y}px, ${east}px ${low.y}px, ${east}px ${high.y}px, ${west}px ${high.y}px)`;
    this.sides[0].style.clipPath = box(low.x, middle);
    this.sides[1].style.clipPath = box(middle, high.x);
  }
}
